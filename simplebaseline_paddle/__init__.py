"""Simple Baselines for human pose estimation on PaddlePaddle (Xiao, Wu and Wei, ECCV 2018)."""
