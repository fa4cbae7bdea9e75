"""TFLite files compiled for Arm Ethos-U by Vela, which tells their cycles, memory and flash."""
