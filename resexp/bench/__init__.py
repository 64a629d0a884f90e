"""The speed of training, compared with usual loops and with what the device can do, in one run."""
