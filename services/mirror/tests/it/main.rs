//! The mirror against real servers.
