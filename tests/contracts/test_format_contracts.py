"""ONNX under the contract that new exporters inherit."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from autocompress.backend.network.compressed import Compressed
from autocompress.backend.network.fold import fold_norms
from autocompress.formats.onnx.format import FORMAT
from autocompress.formats.onnx.graph import fill
from autocompress.formats.onnx.runtime import Runtime
from autocompress.study.workbench import Workbench
from autocompress.testing.format_contract import FormatContract


class TestOnnx(FormatContract):
    """The integers are read out of the running graph: the tensors that feed the weights' scaling."""

    format = FORMAT

    def levels(self, bench: Workbench, compressed: Compressed, data: bytes) -> dict[str, np.ndarray]:
        model = onnx.load_model_from_string(data)
        producer = {name: node for node in model.graph.node for name in node.output}

        def restores(name: str) -> bool:
            """Whether a tensor is a stored weight times its scale."""
            node = producer.get(name)
            if node is None or node.op_type not in ("DequantizeLinear", "Mul"):
                return False
            before = producer.get(node.input[0])
            if node.op_type == "Mul":
                return before is not None and before.op_type == "Cast"
            return before is None or before.op_type != "QuantizeLinear"

        every = fill(bench.network.writer.prepared, fold_norms(compressed, bench.network.table).model).leaves
        leaves = {name: leaf for name, leaf in every.items() if not leaf.arranged}
        kinds = {leaf.node.op_type for leaf in leaves.values()}
        weighted = [node for node in model.graph.node if node.op_type in kinds and any(map(restores, node.input))]
        assert [leaf.node.op_type for leaf in leaves.values()] == [node.op_type for node in weighted]
        sources = {}
        for name, node in zip(leaves, weighted, strict=True):
            scaling = producer[node.input[leaves[name].at]]
            sources[name] = scaling.input[0] if scaling.op_type == "DequantizeLinear" \
                else producer[scaling.input[0]].input[0]
        for name, leaf in every.items():
            if leaf.arranged:  # what restores it has its name
                sources[name] = producer[producer[leaf.weight].input[0]].input[0]
        stored = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
        computed = [name for name in sources.values() if name not in stored]
        for name in computed:
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT8, None))
        outputs = Runtime(model.SerializeToString()).run({"input": bench.network.calibration[:1].numpy()})
        stored |= {name: outputs[name] for name in computed}
        return {name: stored[source].swapaxes(0, 1) if every[name].axis == 1 else stored[source]
                for name, source in sources.items()}
