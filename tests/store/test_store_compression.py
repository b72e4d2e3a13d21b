from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from store_cases import manifest_of, sums_of

from mats.errors import InputsMismatch, RequestError, StoreCorrupt
from mats.store import Sums, add_stores, compress_store, open_store, verify_store, write_store
from mats.store.codecs import codec_of
from mats.store.packing import unpack_triangle
from mats.store.root_codec import correlation_root, gram_of_triangle

FORMATS = ("bfloat16", "float8", "block_diagonal:16", "low_rank:8")


def gram(size: int, rows: int, seed: int = 0, spread: float = 4.0) -> torch.Tensor:
    """A Gram whose features have scales over `spread` orders of magnitude and a common mean, as activations have."""
    generator = torch.Generator().manual_seed(seed)
    data = torch.randn(rows, size, generator=generator, dtype=torch.float64) + 1.0
    data *= torch.logspace(-spread / 2, spread / 2, size, dtype=torch.float64)
    return (data.T @ data).float()


def correlation(matrix: torch.Tensor) -> torch.Tensor:
    scale = matrix.diagonal().double().sqrt()
    return matrix.double() / scale / scale[:, None]


def there_and_back(encoding: str, dense: torch.Tensor) -> torch.Tensor:
    codec = codec_of(encoding)
    parts = codec.encode(dense)
    for name, part in codec.parts(tuple(dense.shape)).items():
        assert tuple(parts[name].shape) == part.shape
    torch.testing.assert_close(
        codec.diagonal(parts, tuple(dense.shape)).sum(),
        (dense if encoding.startswith("dense") else dense.diagonal()).sum(),
        rtol=0.1,
        atol=1e-30,
    )
    return codec.decode(parts, tuple(dense.shape))


@pytest.fixture
def wide(tmp_path):
    """A store with a Gram, an output Gram, counts and a diagonal large enough to be worth compressing."""
    sums = sums_of(range(4))
    sums.tensors = {
        "input_gram/encoder.q": gram(96, 300),
        "output_gram/encoder.q": gram(64, 40, seed=1),
        "input_gram/embed": sums.tensors["input_gram/embed"],
        "diagonal/norm.weight": gram(1, 1).new_tensor(range(1, 1001)).square() * 1e-9,
    }
    sites = tuple(site for site in manifest_of(sums).sites)
    changed = [type(site)(site.name, site.kind, 96 if site.kind == "gram" else 11, site.homogeneous) for site in sites]
    layers = [type(x)(x.name, x.kind, x.weight, x.bias, x.site, x.layout, 64) for x in manifest_of(sums).layers]
    write_store(tmp_path / "wide", manifest_of(sums, sites=tuple(changed), layers=tuple(layers)), sums, {})
    return tmp_path / "wide"


@pytest.mark.parametrize("encoding", ["root_bfloat16", "root_float8", "block_diagonal:10", "low_rank:5"])
@pytest.mark.parametrize(("size", "rows"), [(1, 3), (33, 200), (64, 20)])
def test_a_matrix_stays_semi_definite_and_keeps_its_diagonal(encoding, size, rows):
    dense = gram(size, rows)
    back = there_and_back(encoding, dense)
    assert torch.equal(back, back.T)
    torch.testing.assert_close(back.diagonal(), dense.diagonal(), rtol=1e-5, atol=0)
    assert torch.linalg.eigvalsh(correlation(back)).min() > -1e-5


def test_rounding_the_matrix_itself_would_not_keep_it_semi_definite():
    rounded = correlation(gram(64, 20, spread=0)).to(torch.float8_e4m3fn).double()
    rounded.diagonal().fill_(1.0)
    assert torch.linalg.eigvalsh(rounded).min() < -0.05


@pytest.mark.parametrize(("encoding", "bound"), [("root_bfloat16", 2**-7), ("root_float8", 2**-3)])
def test_the_error_of_a_root_is_that_of_its_rounding(encoding, bound):
    dense = gram(48, 500)
    back = there_and_back(encoding, dense)
    assert float((correlation(back) - correlation(dense)).abs().max()) < bound
    assert float((back - dense).norm() / dense.norm()) < bound / 2


def test_weak_directions_stay_weak():
    dense = gram(64, 20, spread=0)  # rank 20: its last 44 eigenvalues are 0
    values = torch.linalg.eigvalsh(correlation(there_and_back("root_float8", dense)))
    assert float(values[:44].max()) < 0.004, "rounding entries in float8 would leave about 0.2"


@pytest.mark.parametrize("encoding", ["root_bfloat16", "root_float8", "block_diagonal:2", "low_rank:2"])
def test_features_that_never_fired_stay_at_zero(encoding):
    dense = gram(6, 30)
    dense[2], dense[:, 2] = 0.0, 0.0
    back = there_and_back(encoding, dense)
    assert float(back[2].abs().max()) <= 1e-7 * float(dense.max())
    zero = torch.zeros(5, 5)
    assert torch.equal(there_and_back(encoding, zero), zero)


def test_the_blocks_are_exact_and_the_rest_is_zero():
    dense = gram(7, 30)
    expected = torch.block_diag(dense[:3, :3], dense[3:6, 3:6], dense[6:, 6:])
    assert torch.equal(there_and_back("block_diagonal:3", dense), expected)


def test_low_rank_is_the_best_of_its_rank_beside_the_diagonal():
    dense = gram(30, 60)
    values, vectors = torch.linalg.eigh(dense.double())
    best = (vectors[:, -5:] * values[-5:]) @ vectors[:, -5:].T
    best += torch.diag((dense.double() - best).diagonal())
    torch.testing.assert_close(there_and_back("low_rank:5", dense).double(), best, rtol=1e-5, atol=1e-5)


@given(st.integers(0, 10_000), st.integers(1, 700))
def test_squares_are_rounded_relatively_and_never_negative(seed, count):
    generator = torch.Generator().manual_seed(seed)
    dense = torch.randn(count, generator=generator).square() * 10 ** (torch.rand(count, generator=generator) * 6 - 8)
    for encoding, bound in (("dense_bfloat16", 2**-8), ("dense_float8", 0.14)):
        back = there_and_back(encoding, dense)
        assert float(back.min()) >= 0
        large = dense > dense.max() * 1e-8
        assert float(((back - dense).abs() / dense)[large].max()) < bound


def test_products_of_triangles_and_their_roots():
    packed = torch.arange(1.0, 7.0)
    triangle = torch.tensor([[1.0, 2.0, 3.0], [0.0, 4.0, 5.0], [0.0, 0.0, 6.0]])
    assert torch.equal(unpack_triangle(packed, 3), triangle)
    root = torch.randn(600, 600, generator=torch.Generator().manual_seed(0)).triu()
    torch.testing.assert_close(gram_of_triangle(root), root.T @ root, rtol=1e-4, atol=1e-3)
    dense = gram(20, 90)
    found = correlation_root(dense)
    torch.testing.assert_close(found.T @ found, correlation(dense), rtol=0, atol=1e-6)


@pytest.mark.parametrize("form", FORMATS)
def test_a_compressed_store_is_a_store(wide, tmp_path, form):
    done = compress_store(wide, tmp_path / "small", form)
    exact, small = open_store(wide), open_store(tmp_path / "small")
    assert verify_store(tmp_path / "small") == []
    assert set(small) == set(exact)
    assert small.manifest.schema_version == 2
    assert (small.manifest.model, small.examples, small.manifest.tokens) == (
        exact.manifest.model,
        exact.examples,
        exact.manifest.tokens,
    )
    assert done.bytes_after == sum(entry.nbytes for entry in small.entries.values()) < done.bytes_before
    lost = whole = 0.0
    for key in exact:
        ours, theirs = small.sum(key), exact.sum(key)
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
        error = float((ours.double() - theirs).norm() / theirs.double().norm())
        assert small.manifest.compression["relative_error"][key] == pytest.approx(error, rel=1e-3, abs=1e-9)
        lost += float((ours.double() - theirs).norm()) ** 2
        whole += float(theirs.double().norm()) ** 2
        diagonal = theirs.diagonal() if theirs.dim() == 2 else theirs
        torch.testing.assert_close(small.diagonal(key), diagonal.to(ours.dtype), rtol=0.15, atol=0)
    assert done.relative_error == pytest.approx((lost / whole) ** 0.5, rel=1e-3)
    assert small.manifest.compression["of"] == exact.fingerprint
    assert torch.equal(small.sum("input_gram/embed"), exact.sum("input_gram/embed")), "counts are kept as they are"


def test_compressing_twice_gives_the_same_bytes(wide, tmp_path):
    for name in ("a", "b"):
        compress_store(wide, tmp_path / name, "float8", max_shard_bytes=5000)
    files = sorted(item.name for item in (tmp_path / "a").iterdir())
    assert len(files) > 4
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_what_would_not_shrink_is_left_as_it_is(wide, tmp_path):
    done = compress_store(wide, tmp_path / "small", "low_rank:60")
    assert {loss.statistic: loss.worst for loss in done.statistics}["input_gram"] == 0.0
    assert open_store(tmp_path / "small").record("input_gram/encoder.q").encoding == "upper"


@pytest.mark.parametrize("form", ["bf16", "low_rank", "low_rank:0", "block_diagonal:-1", "float8:3", ""])
def test_an_unknown_format_is_told_with_the_known_ones(wide, tmp_path, form):
    with pytest.raises(RequestError, match=r"format '.*': one of bfloat16, float8, block_diagonal:K, low_rank:R"):
        compress_store(wide, tmp_path / "small", form)
    assert not (tmp_path / "small").exists()


def test_compressing_a_copy_again_is_refused(wide, tmp_path):
    compress_store(wide, tmp_path / "small", "bfloat16")
    with pytest.raises(RequestError, match=r"compressed already \(bfloat16\)"):
        compress_store(tmp_path / "small", tmp_path / "smaller", "float8")


def test_adding_compressed_stores_needs_consent_and_gives_exact_encodings(build, tmp_path):
    first, second = build("first", range(3)), build("second", range(3, 8))
    compress_store(second, tmp_path / "small", "bfloat16")
    with pytest.raises(RequestError, match=r"small: compressed \(bfloat16\), .* --accept-loss"):
        add_stores([first, tmp_path / "small"], tmp_path / "sum")
    added = open_store(add_stores([first, tmp_path / "small"], tmp_path / "sum", accept_loss=True))
    assert verify_store(tmp_path / "sum") == []
    assert {entry.encoding for entry in added.entries.values()} == {"dense", "upper"}
    assert added.manifest.compression == {"format": "added from bfloat16"}
    expected = open_store(first).sum("input_gram/encoder.q") + open_store(tmp_path / "small").sum(
        "input_gram/encoder.q"
    )
    torch.testing.assert_close(added.sum("input_gram/encoder.q"), expected)


def test_a_proxy_is_never_added(build, tmp_path):
    stores = [build(name, (number,), estimator={"proxy": "x"}) for number, name in enumerate("ab")]
    with pytest.raises(InputsMismatch, match=r"a proxy \(x\), no sum over examples"):
        add_stores(stores, tmp_path / "sum")


def test_verify_knows_the_parts(wide, tmp_path):
    compress_store(wide, tmp_path / "small", "float8")
    path = tmp_path / "small" / "manifest.json"
    content = json.loads(path.read_text())
    content["tensors"]["output_gram/encoder.q"]["encoding"] = "root_bfloat16"
    content["tensors"]["diagonal/norm.weight"]["encoding"] = "low_rank:3"
    path.write_text(json.dumps(content))
    with pytest.raises(StoreCorrupt, match=r"packed with shape \[1000\]"):
        open_store(tmp_path / "small")
    content["tensors"]["diagonal/norm.weight"]["encoding"] = "dense_float8"
    del content["compression"]
    path.write_text(json.dumps(content))
    faults = "\n".join(verify_store(tmp_path / "small"))
    assert "output_gram/encoder.q is F8_E4M3" in faults
    assert "does not say that it is compressed" in faults
    content["tensors"]["diagonal/norm.weight"]["encoding"] = "float3"
    path.write_text(json.dumps(content))
    with pytest.raises(StoreCorrupt, match=r"encoding.*received 'float3'"):
        open_store(tmp_path / "small")


def test_a_damaged_part_is_found(wide, tmp_path):
    compress_store(wide, tmp_path / "small", "float8")
    file = next((tmp_path / "small").glob("diagonal-*"))
    content = bytearray(file.read_bytes())
    content[-1] = 0x7F  # NaN in e4m3fn
    file.write_bytes(content)
    assert any("diagonal/norm.weight: the sum ranges from nan" in fault for fault in verify_store(tmp_path / "small"))


def test_names_with_the_mark_of_parts_are_refused(tmp_path):
    sums = Sums({"diagonal/a#b": torch.ones(2)}, {}, {}, ["e"])
    with pytest.raises(RequestError, match="have no '#'"):
        write_store(tmp_path / "x", manifest_of(sums, sites=(), layers=(), parameters=("a#b",)), sums, {})
