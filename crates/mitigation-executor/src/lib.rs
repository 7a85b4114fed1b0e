//! mitigation-executor
