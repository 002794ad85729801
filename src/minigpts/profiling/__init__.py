"""One streaming pass over the calibration text: sufficient statistics of what the model's units do."""
