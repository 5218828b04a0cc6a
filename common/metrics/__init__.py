"""Metrics of pose estimation, vectorised over persons. `common.protocols` names the combinations that papers report.

`pck` (torso, box, head, PDJ, AUC) · `pcp` (strict, relaxed, K2HPD's figures) · `mobilepose` (as it counts) · `oks`, `coco`
(object keypoint similarity, AI Challenger's score).

Every distance metric here treats missing values alike:
- an unlabelled joint is not counted; a prediction of NaN for a labelled joint is a miss;
- a person whose normaliser cannot be measured (NaN, an end of it is not labelled) is not counted;
- a normaliser of zero: PCP and PCKh divide by it, so nothing is near enough; PCK and PDJ compare with a multiple of it,
  so an exact hit is one;
- where nothing is counted (no person, no labelled joint) the figure is NaN, and means leave NaN entries out.
"""

from common.metrics.counting import Result

__all__ = ["Result"]
