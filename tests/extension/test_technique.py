"""A technique of a user's own: the smallest rows of a layer's weight, by default a tenth of them, are zero."""

from pathlib import Path

import msgspec
import pytest
import torch
from torch import nn

import autocompress
from autocompress.techniques.base import UNSTRUCTURED, InputError, Knob, Plan, Receipt, Step, Technique, layer_at
from autocompress.testing.techniques import TechniqueContract


class ZeroRows(Technique):
    name, solved = "zero-rows", ("zero-rows",)
    Settings = msgspec.defstruct("Settings", [("share", float, 0.1)], frozen=True, forbid_unknown_fields=True)

    def knobs(self, space, settings):
        return [Knob(kind=self.name, site=layer.name, choices=(0, 1), plain=0, saves=True) for layer in
                space.table.layers if layer.compressible and layer.kind in ("conv", "linear")]

    def decode(self, setting, parts):
        args = {"share": setting.space.settings[self.name].share}
        return [Step(knob.site, self.name, args) for knob in setting.space.of_kind(self.name)
                if setting[knob.key] and len(parts[knob.site]) == 1 and not parts[knob.site][0].pattern
                and setting.weight_bits.get(knob.site, 32) >= 16]  # below, the mask costs more than zeros save

    def encode(self, space, steps, parts):
        return {knob.key: int(knob.site in steps) for knob in space.of_kind(self.name)}

    def options(self, space):
        share = space.settings[self.name].share
        return ((Step(knob.site, self.name, {"share": share}), (1 - share,)) for knob in space.of_kind(self.name))

    def values(self, space, site, option):
        return {self.name: int(bool(option))}

    def sensitivity(self, space, step, costs, parts):
        return costs.get((1 - step.args["share"],))

    def check(self, step, plan, table, profile):
        if not layer_at(step, table).compressible or not 0 < step.args.get("share", 0) < 1:
            raise InputError(f"{step.site} must be a layer that can be touched, with a `share` between 0 and 1")

    def effect(self, step, table, parts):
        (part,) = parts[step.site]
        kept = part.weights - round(step.args["share"] * part.out_channels) * part.weights // part.out_channels
        parts[step.site] = (msgspec.structs.replace(part, pattern=UNSTRUCTURED, kept=kept),)

    def describe(self, step, table):
        return f"{step.args['share']:.0%} of its rows zero"

    def apply(self, network, steps):
        for step in steps:
            weight = network.model.get_submodule(step.site).weight.detach()
            kept = torch.ones_like(weight, dtype=torch.bool)
            kept[weight.flatten(1).norm(dim=1).argsort(stable=True)[:round(step.args["share"] * len(weight))]] = False
            network.zero(step.site, kept)
        return [Receipt(step.site, self.name, dict(step.args)) for step in steps]


class TestZeroRows(TechniqueContract):
    technique = ZeroRows()

    def plans(self, bench):
        return [Plan.of([Step(layer.name, "zero-rows", {"share": 0.1}) for layer in bench.network.table.layers
                         if layer.compressible and layer.kind in ("conv", "linear")])]


@pytest.mark.usefixtures("short_searches")
def test_a_search_ends_with_a_verified_file_with_rows_of_zeros(tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs, space = torch.randn(300, 64), tmp_path / "space.toml"
    network = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 3)).eval()
    space.write_text('schema = 1\nname = "mine"\n[zero-rows]\nshare = 0.25\n', "utf-8")
    result = autocompress.search(network, (inputs, inputs[:, :3].argmax(1)), budget="60kB", epochs=1, effort="fast",
                                 techniques=[f"{__file__}:ZeroRows"], space=str(space), trials=3,
                                 out=tmp_path / "study")
    steps = result.best.plan.find("zero-rows")
    assert steps and result.artifact["verified"] and (tmp_path / "study/artifact/model.onnx").stat().st_size <= 60_000
    assert "25% of its rows zero" in (tmp_path / "study/report/pareto.html").read_text("utf-8")
