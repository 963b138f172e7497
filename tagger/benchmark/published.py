"""Published accuracies on the test images of CIFAR-10."""

from __future__ import annotations

from tagger.reporting.benchmark_report.data import Published

PUBLISHED = (
    Published("knn", 0.386, "k = 1, L1, raw pixels, all 50,000", "CS231n notes"),
    Published("knn", 0.354, "k = 1, L2, raw pixels, all 50,000", "CS231n notes"),
    Published("convnet", 0.82, "30 epochs, no augmentation", "microsoft/CNTK ConvNet README"),
    Published("convnet-aug", 0.86, "80 epochs", "microsoft/CNTK ConvNet README"),
    Published("convnet-lrn", 0.862, "80 epochs", "microsoft/CNTK ConvNet README"),
    Published("resnet20", 0.9125, "64k steps", "He et al. 2015, arXiv 1512.03385"),
    Published("resnet32", 0.9249, "64k steps", "He et al. 2015, arXiv 1512.03385"),
    Published("resnet44", 0.9283, "64k steps", "He et al. 2015, arXiv 1512.03385"),
    Published("resnet56", 0.9303, "64k steps", "He et al. 2015, arXiv 1512.03385"),
    Published("resnet110", 0.9357, "64k steps", "He et al. 2015, arXiv 1512.03385"),
    Published(
        "speedrun", 0.9401, "airbench94, flip and shift augmentation at test time", "Jordan 2024, arXiv 2404.00498"
    ),
)
