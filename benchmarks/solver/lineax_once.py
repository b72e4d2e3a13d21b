"""Solve one system with lineax's CG: python lineax_once.py given.npz found.npz TOLERANCE MOST THREADS.

Knows neither the product nor the rest of this benchmark: it runs in an interpreter that has jax and lineax.

lineax stops where both ‖r‖ ≤ atol and ‖last step‖ ≤ atol (rtol would be entry by entry). With ‖b‖ = 1 and an operator
scaled up, steps are tiny, and what decides is the residual, as for everybody else.
"""

from __future__ import annotations

import json
import os
import sys
import time

UNIT = 1e6  # mean diagonal of the scaled operator


def main() -> None:
    given, found, tolerance, most, threads = sys.argv[1:]
    if threads == "1":
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    import jax
    import jax.numpy as jnp
    import lineax as lx
    import numpy as np

    data = np.load(given)
    traces = [np.trace(X, axis1=1, axis2=2) if X.ndim == 3 else X.sum(1) for X in (data["left"], data["right"])]
    scale = UNIT * data["b"].size / float((traces[0] * traces[1]).sum())
    left, right, b = jnp.asarray(scale * data["left"]), jnp.asarray(data["right"]), jnp.asarray(data["b"])

    def product(X: jax.Array) -> jax.Array:
        rows = jnp.einsum("mij,jk->mik", left, X) if left.ndim == 3 else left[:, :, None] * X
        return jnp.einsum("mik,mkl->il", rows, right) if right.ndim == 3 else (rows * right[:, None, :]).sum(0)

    @jax.jit
    def solve(b: jax.Array) -> tuple[jax.Array, jax.Array]:
        operator = lx.FunctionLinearOperator(product, jax.eval_shape(lambda: b), lx.positive_semidefinite_tag)
        solver = lx.CG(rtol=0.0, atol=float(tolerance), norm=jnp.linalg.norm, max_steps=int(most))
        solution = lx.linear_solve(operator, b, solver, throw=False)
        return solution.value, solution.stats["num_steps"]

    compiled = solve.lower(b).compile()
    begin, processor = time.perf_counter(), time.process_time()
    value, steps = compiled(b)
    value.block_until_ready()
    times = {"seconds": time.perf_counter() - begin, "processor_seconds": time.process_time() - processor}
    np.savez(found, correction=scale * np.asarray(value))
    print(json.dumps({**times, "iterations": [int(steps)]}))


if __name__ == "__main__":
    main()
