//! What requests are sent to: block devices and regular files, by io_uring or threads, and simulated ones.
