"""Whether processors and GPUs multiply bf16, read from what the system says of them."""

import pytest
import torch

from orchestrator.base.devices import Device, bf16_slowness, devices_here, gpus, processor

ZEN_3 = "model name\t: AMD EPYC 7R13\nflags\t\t: fpu sse2 avx2 fma bmi2\n"
COOPER_LAKE = "model name\t: Xeon 6348H\nflags\t\t: avx2 avx512f avx512_bf16\n"
SAPPHIRE_RAPIDS = "model name\t: Xeon 8488C\nflags\t\t: avx2 amx_bf16 avx512f\n"
NEOVERSE_V1 = "processor\t: 0\nFeatures\t: fp asimd sve bf16 i8mm\n"
NEOVERSE_N1 = "processor\t: 0\nFeatures\t: fp asimd asimdhp\n"


def read(tmp_path, cpuinfo, **environment):
    (tmp_path / "proc").mkdir(exist_ok=True)
    (tmp_path / "proc/cpuinfo").write_text(cpuinfo)
    return processor(tmp_path, environment)


@pytest.mark.parametrize(
    ("cpuinfo", "flag"),
    [(COOPER_LAKE, "avx512_bf16"), (SAPPHIRE_RAPIDS, "amx_bf16"), (NEOVERSE_V1, "bf16")],
)
def test_processors_with_products_of_bf16_are_known_by_their_flags(tmp_path, cpuinfo, flag):
    found = read(tmp_path, cpuinfo)
    assert found.bf16
    assert found.because == f"it has {flag}"


@pytest.mark.parametrize("cpuinfo", [ZEN_3, NEOVERSE_N1, ""])
def test_processors_without_them_are_known_too(tmp_path, cpuinfo):
    assert not read(tmp_path, cpuinfo).bf16


def test_the_name_is_the_systems(tmp_path):
    assert read(tmp_path, ZEN_3).name == "AMD EPYC 7R13"


def test_a_system_that_does_not_tell_counts_as_one_without(tmp_path):
    found = processor(tmp_path, {})
    assert not found.bf16
    assert "cannot be read" in found.because


@pytest.mark.parametrize(
    ("value", "left"),
    [("AVX2", False), ("AVX512_CORE", False), ("avx512_core_vnni", False),
     ("AVX512_CORE_BF16", True), ("AVX512_CORE_AMX", True), ("ALL", True), ("", True)],
)  # fmt: skip
def test_a_variable_that_holds_the_products_back_counts(tmp_path, value, left):
    found = read(tmp_path, COOPER_LAKE, ONEDNN_MAX_CPU_ISA=value)
    assert found.bf16 is left
    if not left:
        assert found.because == f"ONEDNN_MAX_CPU_ISA is {value!r}"


@pytest.mark.parametrize(
    ("capability", "native"), [((7, 5), False), ((8, 0), True), ((9, 0), True)]
)
def test_gpus_are_known_by_their_compute_capability(monkeypatch, capability, native):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
    major, minor = capability
    because = f"its compute capability is {major}.{minor}"
    assert gpus() == [Device("a GPU", bf16=native, because=because)]
    assert devices_here(on_gpu=True) == gpus()


def test_the_ratio_of_products_agrees_with_the_flags():
    """On a processor without such products, bf16 is slower; with them it is not three times so."""
    ratio = bf16_slowness(threads=1)
    assert ratio < 3 if processor().bf16 else ratio > 1.5
