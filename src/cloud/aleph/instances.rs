//! Messages that make instances.

use std::collections::HashMap;
use std::time::Duration;

use aleph_sdk::aggregate_models::pricing::PRICING_ADDRESS;
use aleph_sdk::aggregate_models::vm_images::{VM_IMAGES_KEY, VmImagesAggregate, VmImagesData};
use aleph_sdk::messages::{ForgetBuilder, InstanceBuilder};
use aleph_types::channel::Channel;
use aleph_types::item_hash::ItemHash;
use aleph_types::message::execution::base::Payment;
use aleph_types::message::execution::environment::{HostRequirements, Hypervisor, NodeRequirements};
use aleph_types::message::execution::volume::PersistentVolumeSize;
use aleph_types::message::pending::PendingMessage;
use anyhow::Context as _;
use futures_util::future::join_all;
use serde_json::Value;
use tracing::warn;
use uuid::Uuid;

use super::http::garbled;
use super::{Aleph, AlephError, Ccn, Crn, Instance};
use crate::config::Config;

/// How long an image's hash is believed.
const IMAGE_AGE: Duration = Duration::from_secs(3600);
/// Metadata key under which an instance says which installation made it.
pub(super) const INSTALLATION_KEY: &str = "baal_installation";
/// Metadata key under which an instance says for which row of `vms` it was made.
pub(super) const VM_KEY: &str = "baal_vm";

/// What an instance is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) vcpus: u32,
    pub(super) memory_mib: u64,
    pub(super) disk_mib: u64,
}

impl Size {
    /// An error where Aleph would not take it.
    pub(super) fn of(config: &Config) -> anyhow::Result<Self> {
        let size = Self { vcpus: config.vm_vcpus, memory_mib: config.vm_memory, disk_mib: config.vm_disk << 10 };
        PersistentVolumeSize::try_from(size.disk_mib).context("VM_DISK_GIB is more than an instance may have")?;
        Ok(size)
    }
}

impl Aleph {
    /// A signed message for a new instance on this node. Nothing is sent.
    pub async fn compose(&self, crn: &Crn, installation: Uuid, vm: Uuid) -> Result<Instance, AlephError> {
        let image = self.image().await.unwrap_or_else(|error| {
            warn!(%error, "the network does not say for certain which root image to use; the one known here is used");
            fallback_image()
        });
        self.compose_with(image, crn, installation, vm)
    }

    pub(super) fn compose_with(
        &self,
        image: ItemHash,
        crn: &Crn,
        installation: Uuid,
        vm: Uuid,
    ) -> Result<Instance, AlephError> {
        let own = |error: &dyn std::fmt::Display| AlephError::Own(format!("the instance's message: {error}"));
        let disk = PersistentVolumeSize::try_from(self.size.disk_mib).map_err(|e| own(&e))?;
        let node = NodeRequirements {
            owner: None,
            address_regex: None,
            node_hash: Some(crn.hash.clone()),
            terms_and_conditions: None,
        };
        let metadata = [
            ("name", format!("baal-{}", &vm.simple().to_string()[..12])),
            (INSTALLATION_KEY, installation.to_string()),
            (VM_KEY, vm.to_string()),
        ];
        let metadata: HashMap<_, _> = metadata.map(|(key, value)| (key.to_owned(), Value::String(value))).into();
        let message = InstanceBuilder::new(&self.account, image, disk)
            .vcpus(self.size.vcpus)
            .memory(self.size.memory_mib.into())
            .hypervisor(Hypervisor::Qemu)
            .payment(Payment::credits())
            .ssh_keys(vec![self.ssh_public.clone()])
            .requirements(HostRequirements { cpu: None, node: Some(node), gpu: None })
            .metadata(metadata)
            .channel(channel())
            .build()
            .map_err(|e| own(&e))?;
        let message_json = as_posted(&message)?;
        Ok(Instance { item_hash: message.item_hash.to_string(), crn: crn.clone(), message: message_json })
    }

    /// A signed message that has another forgotten.
    pub(super) fn compose_forget(&self, target: ItemHash) -> Result<Value, AlephError> {
        let message = ForgetBuilder::new(&self.account, vec![target]).reason("not needed any more").channel(channel());
        let message = message.build().map_err(|e| AlephError::Own(format!("the FORGET message: {e}")))?;
        as_posted(&message)
    }

    /// Debian 12's root image as the network lists it, an hour old at most. Whoever chooses the image owns the machine, so one
    /// core channel node's word is not enough where there are several.
    pub(super) async fn image(&self) -> Result<ItemHash, AlephError> {
        if let Some(image) = self.image.get(IMAGE_AGE) {
            return Ok(image);
        }
        let (mut said, mut failed) = (Vec::new(), None);
        for images in join_all(self.ccns.iter().map(|ccn| self.images_at(ccn))).await {
            match images {
                Ok(images) => said.push(debian(&images.vm_images)),
                Err(error) => {
                    warn!(%error, "a core channel node does not say which root images there are");
                    failed.get_or_insert(error);
                }
            }
        }
        let what = "the list of root images";
        let image = match (agreed(&said, self.ccns.len()), failed) {
            (Some(image), _) => image,
            (None, Some(error)) => return Err(error),
            (None, None) if said.iter().all(Option::is_none) => return Err(garbled(what, "it has no Debian 12")),
            (None, None) => return Err(garbled(what, "core channel nodes name different images of Debian 12")),
        };
        self.image.set(image.clone());
        Ok(image)
    }

    async fn images_at(&self, ccn: &Ccn) -> Result<VmImagesAggregate, AlephError> {
        // Images and prices are kept by the same address.
        let images = self.aggregate_at(ccn, &PRICING_ADDRESS, VM_IMAGES_KEY).await?;
        serde_json::from_value(images).map_err(|error| garbled(&ccn.name(), format!("a list of root images: {error}")))
    }
}

/// Debian 12's root image where the network does not say: the `vm-images` aggregate of November 2026.
pub(super) fn fallback_image() -> ItemHash {
    aleph_types::item_hash!("b6ff5c3a8205d1ca4c7c3369300eeafff498b558f71b851aa2114afd0a532717")
}

/// The image that all core channel nodes that answered name. Another than the one known here needs a second that says so,
/// where so many are `configured`.
fn agreed(said: &[Option<ItemHash>], configured: usize) -> Option<ItemHash> {
    let image = said.first()?.as_ref()?;
    let enough = *image == fallback_image() || said.len() >= configured.min(2);
    (enough && said.iter().all(|other| other.as_ref() == Some(image))).then(|| image.clone())
}

fn channel() -> Channel {
    Channel::from(Aleph::CHANNEL.to_owned())
}

fn as_posted(message: &PendingMessage) -> Result<Value, AlephError> {
    serde_json::to_value(message).map_err(|e| AlephError::Own(format!("the message as JSON: {e}")))
}

/// Debian 12 among the images. Names were misleading before, so one that calls itself something else is not taken.
fn debian(images: &VmImagesData) -> Option<ItemHash> {
    let plain = |text: &str| text.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    let mut fit = images.active_rootfs().into_iter().filter(|(name, entry)| {
        let shown = entry.display_name.as_deref().is_none_or(|shown| plain(shown).contains("debian"));
        matches!(plain(name).as_str(), "debian12" | "debian12bookworm" | "debianbookworm") && shown
    });
    fit.next().map(|(_, entry)| entry.hash.clone())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn images(rootfs: serde_json::Value) -> VmImagesData {
        serde_json::from_value(json!({ "rootfs": rootfs })).unwrap()
    }

    #[test]
    fn debian_12_is_found_by_its_name() {
        let hash = "11".repeat(32);
        for name in ["debian12", "debian-12", "Debian 12"] {
            let images = images(json!({
                "ubuntu24": {"hash": "22".repeat(32), "display_name": "Ubuntu 24.04"},
                name: {"hash": hash, "display_name": "Debian 12 (Bookworm)"},
            }));
            assert_eq!(debian(&images).unwrap().to_string(), hash);
        }
    }

    #[test]
    fn an_image_that_is_not_known_here_needs_the_word_of_all_and_of_two_if_there_are_two() {
        let image = |byte: &str| Some(ItemHash::try_from(byte.repeat(32).as_str()).unwrap());
        let (one, other, known) = (image("11"), image("22"), Some(fallback_image()));
        for (said, configured, expected) in [
            (vec![one.clone()], 1, &one),
            (vec![one.clone()], 2, &None),
            (vec![one.clone(), one.clone()], 2, &one),
            (vec![one.clone(), one.clone()], 3, &one),
            (vec![one.clone(), other.clone()], 2, &None),
            (vec![one.clone(), one.clone(), other.clone()], 3, &None),
            (vec![one.clone(), None], 2, &None),
            (vec![None, one.clone()], 2, &None),
            (vec![known.clone()], 2, &known),
            (vec![known.clone(), one.clone()], 2, &None),
            (vec![], 1, &None),
        ] {
            assert_eq!(agreed(&said, configured), *expected, "{said:?} of {configured}");
        }
    }

    #[test]
    fn a_debian_12_that_is_an_ubuntu_or_deprecated_is_not_taken() {
        let hash = "11".repeat(32);
        assert_eq!(debian(&images(json!({"debian12": {"hash": hash, "display_name": "Ubuntu 22.04"}}))), None);
        assert_eq!(debian(&images(json!({"debian12": {"hash": hash, "deprecated": true}}))), None);
        assert_eq!(debian(&images(json!({"debian13": {"hash": hash}}))), None);
    }
}
