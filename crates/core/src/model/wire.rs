//! The door between stored bytes and the model.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{ClusterData, cluster::FORMAT_VERSION};

/// Why stored bytes are not the document they should be.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Not JSON, or not of the document's shape.
    #[error("cannot read the document: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Of a format that this version does not know.
    #[error(
        "cannot read cluster data of format version {found}: this program knows version {FORMAT_VERSION}"
    )]
    FormatVersion {
        /// The version found.
        found: u64,
    },
}

/// Reads the cluster data; `null`, as `clusterdata` may hold, is none.
pub fn read_cluster_data(bytes: &[u8]) -> Result<Option<ClusterData>, WireError> {
    let data: Option<ClusterData> = read(bytes)?;
    match data {
        Some(data) if data.format_version != FORMAT_VERSION => Err(WireError::FormatVersion {
            found: data.format_version,
        }),
        data => Ok(data),
    }
}

/// Reads a document.
pub fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, WireError> {
    Ok(serde_json::from_slice(bytes)?)
}

/// Writes a document.
pub fn write<T: Serialize>(document: &T) -> Result<Vec<u8>, WireError> {
    Ok(serde_json::to_vec(document)?)
}
