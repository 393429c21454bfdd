//! The sweep on real servers: what stands still goes on, what has had its use goes, what is in use stays.

mod objects;
mod rows;
mod staging;
mod work;
mod world;
