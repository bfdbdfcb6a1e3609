"""Class scores to a `Decision`: calibration and one pure function. Knows no texts, models or protocols."""
