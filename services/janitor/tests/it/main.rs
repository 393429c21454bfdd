//! The janitor against real servers.
