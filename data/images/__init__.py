"""Images: their preprocessing, folders of them, and image sets of torchvision."""
