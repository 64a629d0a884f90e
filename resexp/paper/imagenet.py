"""The paper's numbers for ImageNet: Tables 2 to 5 and Fig. 4."""

from __future__ import annotations

from resexp.paper.published import OnViews, Published

IMAGENET: dict[tuple[str, str, int, str | None], Published] = {
    ("plain", "basic", 18, None): Published(31.5, 31.4, "Fig. 4", OnViews(27.94, None, "Table 2")),
    ("plain", "basic", 34, None): Published(32.7, 32.5, "Fig. 4", OnViews(28.54, 10.02, "Table 3")),
    ("residual", "basic", 18, "A"): Published(30.0, 31.1, "Fig. 4", OnViews(27.88, None, "Table 2")),
    ("residual", "basic", 34, "A"): Published(25.1, 28.3, "Fig. 4", OnViews(25.03, 7.76, "Table 3")),
    ("residual", "basic", 34, "B"): Published(
        None, None, "Tables 3 and 4", OnViews(24.52, 7.46, "Table 3"), OnViews(21.84, 5.71, "Table 4")
    ),
    ("residual", "basic", 34, "C"): Published(
        None, None, "Tables 3 and 4", OnViews(24.19, 7.40, "Table 3"), OnViews(21.53, 5.60, "Table 4")
    ),
    ("residual", "bottleneck", 50, "B"): Published(
        None, None, "Tables 3 and 4", OnViews(22.85, 6.71, "Table 3"), OnViews(20.74, 5.25, "Table 4")
    ),
    ("residual", "bottleneck", 101, "B"): Published(
        None, None, "Tables 3 and 4", OnViews(21.75, 6.05, "Table 3"), OnViews(19.87, 4.60, "Table 4")
    ),
    ("residual", "bottleneck", 152, "B"): Published(
        None, None, "Tables 3 and 4", OnViews(21.43, 5.71, "Table 3"), OnViews(19.38, 4.49, "Table 4")
    ),
    ("vgg", "basic", 16, None): Published(None, None, "Table 3", OnViews(28.07, 9.33, "Table 3")),
}
"""By kind, block, depth and shortcut.

Table 3 repeats the 10-crop errors of Table 2 at 34 layers. Training and test errors are late readings of Fig. 4. Its
validation error is measured on centre crops. VGG-16 was trained by its authors' recipe, so no run here is comparable.
"""

ENSEMBLE_TOP5 = 3.57
"""Top-5 error in percent of six nets of different depth, two of them ResNet-152 (Table 5).

The test server measured it on images whose classes are not public. Errors on the validation images are not comparable.
"""

TEN_CROP, SIDES = 224, (224, 256, 384, 480, 640)
"""Sides in pixels: the ten crops of Tables 2 and 3, and the shorter sides that Table 4 averages over (section 3.4)."""
