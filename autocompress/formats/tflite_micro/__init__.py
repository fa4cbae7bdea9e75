"""TFLite files for microcontrollers, run in the interpreter of TensorFlow Lite Micro."""
