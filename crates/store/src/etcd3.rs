//! etcd by its version 3 API.
use crate::keys::Keys;
use crate::{Config, Error};

#[derive(Debug)]
pub(crate) struct Etcd3Store {}
impl Etcd3Store {
    pub(crate) fn open(_config: &Config, _keys: Keys) -> Result<Self, Error> {
        Err(Error::Config("etcdv3".to_owned()))
    }
}
