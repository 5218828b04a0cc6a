"""Convolutional Pose Machines and LSTM Pose Machines in PyTorch."""
