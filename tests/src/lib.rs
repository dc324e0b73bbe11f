//! End-to-end tests that start the real binaries; everything is in `tests/`.
