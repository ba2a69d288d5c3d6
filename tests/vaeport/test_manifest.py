"""The manifest and its JSON determine each other."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaeport.manifest import FileEntry, GraphSpec, Manifest, ManifestFieldError, ModelSpec, Preprocessing, TensorSpec

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=10)
sizes = st.integers(1, 10_000)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=5,
)
tensors = st.builds(
    TensorSpec, name=names, dtype=st.just("float32"), shape=st.lists(sizes | names, max_size=4).map(tuple)
)
tensor_lists = st.lists(tensors, max_size=3).map(tuple)
manifests = st.builds(
    Manifest,
    format=st.just("vaeport/1"),
    name=names,
    version=sizes,
    model=st.builds(
        ModelSpec,
        family=names,
        image_shape=st.tuples(sizes, sizes, sizes),
        latent_dim=sizes,
        likelihood=st.sampled_from(("bernoulli", "gaussian")),
        sigma=st.none() | st.floats(1e-3, 1e3),
    ),
    preprocessing=st.builds(
        Preprocessing,
        size=st.tuples(sizes, sizes),
        channels=sizes,
        crop=st.sampled_from(("none", "center", "pad")),
        scale=st.floats(1e-3, 1e3),
        binarization=st.sampled_from(("none", "dynamic", "threshold", "static")),
    ),
    graphs=st.dictionaries(
        names,
        st.builds(GraphSpec, path=names, inputs=tensor_lists, outputs=tensor_lists, opset=sizes, ir_version=sizes),
        max_size=3,
    ),
    training=st.dictionaries(names, json_values, max_size=3),
    parity=st.dictionaries(names, json_values, max_size=3),
    files=st.lists(st.builds(FileEntry, path=names, size=sizes, sha256=names), max_size=3).map(tuple),
)


@given(manifests)
def test_reading_what_was_written_gives_the_same_manifest_and_the_same_bytes(manifest: Manifest) -> None:
    data = manifest.to_json()
    assert Manifest.from_json(data) == manifest
    assert Manifest.from_json(data).to_json() == data


@given(st.binary(max_size=200) | json_values.map(repr).map(str.encode))
def test_anything_else_is_a_named_error(data: bytes) -> None:
    with pytest.raises(ManifestFieldError):
        Manifest.from_json(data)


def test_deep_nesting_is_an_error_not_a_crash() -> None:
    with pytest.raises(ManifestFieldError):
        Manifest.from_json(b"[" * 100_000)
