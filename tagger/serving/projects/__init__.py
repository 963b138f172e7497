"""The training calls of Custom Vision: projects on disk, images, tags, trainings, published iterations."""
