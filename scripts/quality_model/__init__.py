"""What `train-quality-model` consists of: a made-up world, texts about it, the training, and twins with outliers."""
