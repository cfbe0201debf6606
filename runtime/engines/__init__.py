"""TensorRT engines of a bundle: their records, the choice of one that runs here, building, and running them."""
