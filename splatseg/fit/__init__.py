"""The main job: photos -> Gaussians -> features -> labels, stage by stage, cached and resumable."""
