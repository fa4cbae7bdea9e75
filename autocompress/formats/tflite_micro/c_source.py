"""A model as C: an array in flash, its header, and the shortest program that runs it."""

from __future__ import annotations

import tflite

COLUMNS = 16
HEADER = """// A model for TensorFlow Lite Micro.
#ifndef MODEL_H_
#define MODEL_H_
#ifdef __cplusplus
extern "C" {{
#endif
#define MODEL_BYTES {size}
extern const unsigned char model[MODEL_BYTES];
#ifdef __cplusplus
}}
#endif
#endif
"""
PROGRAM = """// Runs the model once: build it with TensorFlow Lite Micro.
#include <cstdint>

#include "model.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"

constexpr int kArenaBytes = ARENA_BYTES;  // as the manifest has it; less with pointers of 32 bits
alignas(16) static uint8_t arena[kArenaBytes];

int run(const int8_t* input, int8_t* output) {{
  static tflite::MicroMutableOpResolver<{count}> resolver;
  static tflite::MicroInterpreter* interpreter = nullptr;
  if (interpreter == nullptr) {{
{operators}
    static tflite::MicroInterpreter made(tflite::GetModel(model), resolver, arena, kArenaBytes);
    if (made.AllocateTensors() != kTfLiteOk) return -1;
    interpreter = &made;
  }}
  TfLiteTensor* in = interpreter->input(0);
  for (size_t i = 0; i < in->bytes; ++i) in->data.int8[i] = input[i];
  if (interpreter->Invoke() != kTfLiteOk) return -1;
  TfLiteTensor* out = interpreter->output(0);
  for (size_t i = 0; i < out->bytes; ++i) output[i] = out->data.int8[i];
  return 0;
}}
"""
# Functions of the resolver, where they are not the operator's name in capitals and small letters.
ADDERS = {"CONV_2D": "Conv2D", "DEPTHWISE_CONV_2D": "DepthwiseConv2D", "AVERAGE_POOL_2D": "AveragePool2D",
          "MAX_POOL_2D": "MaxPool2D", "BATCH_MATMUL": "BatchMatMul", "PADV2": "PadV2"}


def c_files(data: bytes) -> dict[str, bytes]:
    """`model.h`, `model.c` and `main.cc`, by name."""
    rows = "\n".join("  " + " ".join(f"0x{byte:02x}," for byte in data[i:i + COLUMNS])
                     for i in range(0, len(data), COLUMNS))
    source = f'#include "model.h"\n\n_Alignas(16) const unsigned char model[MODEL_BYTES] = {{\n{rows}\n}};\n'
    names = _operators(data)
    added = "\n".join(f"    resolver.Add{name}();" for name in names)
    return {"model.h": HEADER.format(size=len(data)).encode(), "model.c": source.encode(),
            "main.cc": PROGRAM.format(count=len(names), operators=added).encode()}


def _operators(data: bytes) -> list[str]:
    """Names of the operators as the resolver's functions have them."""
    model = tflite.Model.GetRootAsModel(data, 0)
    names = {number: name for name, number in vars(tflite.BuiltinOperator).items() if isinstance(number, int)}
    functions = []
    for code in (model.OperatorCodes(i) for i in range(model.OperatorCodesLength())):
        name = names[code.BuiltinCode()]
        functions.append("Decode" if name == "CUSTOM" else ADDERS.get(
            name, "".join(word.capitalize() for word in name.split("_"))))
    return functions
