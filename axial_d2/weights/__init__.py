"""Weights from elsewhere: reading them safely, converting them, and what changes in transfer."""
