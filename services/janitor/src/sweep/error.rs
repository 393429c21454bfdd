#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Store(#[from] mecapy_store::Error),
    #[error(transparent)]
    Bus(#[from] mecapy_bus::Error),
    #[error(transparent)]
    Objects(#[from] mecapy_objects::Error),
    #[error(transparent)]
    Registry(#[from] mecapy_registry::Error),
}
