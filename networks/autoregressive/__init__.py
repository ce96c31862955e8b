"""Autoregressive networks: MADE, WaveNet and PixelCNN."""
