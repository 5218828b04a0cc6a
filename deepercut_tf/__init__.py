"""DeeperCut / ArtTrack: single and multi-person pose estimation on TensorFlow (after eldar/pose-tensorflow)."""
