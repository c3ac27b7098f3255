//! What instances cost and which images there are.
//!
//! Outside facts: pyaleph `toolkit/constants.py` (prices) and `services/cost.py`: an estimate is **credits a second**.

use serde_json::{Value, json};

/// Owner of the network's aggregates `pricing` and `vm-images`.
pub const OWNER: &str = "0xFba561a84A537fCaa567bb7A2257e7142701ae2A";

/// Credits an hour for each compute unit: 1 vCPU, 2 GiB of memory, 20 GiB of disk.
const UNIT: f64 = 14_250.0;
/// Credits an hour for each MiB of disk beyond that.
const DISK: f64 = 0.179_674_890_306_261_08;
const UNIT_MEMORY_MIB: u64 = 2048;
const UNIT_DISK_MIB: u64 = 20_480;

const IMAGES: [(&str, &str, &str); 2] = [
    ("debian12", "Debian 12 Bookworm", "b6ff5c3a8205d1ca4c7c3369300eeafff498b558f71b851aa2114afd0a532717"),
    ("ubuntu24", "Ubuntu 24.04 LTS", "5330dcefe1857bcd97b7b7f24d1420a7d46232d53f27be280c8a7071d88bd84e"),
];

/// Whether an instance can start from it.
pub fn is_image(hash: &str) -> bool {
    IMAGES.iter().any(|(_, _, image)| *image == hash)
}

/// Credits an hour for an instance with this content.
#[expect(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
pub fn hourly(content: &Value) -> f64 {
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let memory = number(&content["resources"]["memory"]).div_ceil(UNIT_MEMORY_MIB);
    let units = number(&content["resources"]["vcpus"]).max(memory).max(1);
    let disk = number(&content["rootfs"]["size_mib"]).saturating_sub(units * UNIT_DISK_MIB);
    units as f64 * UNIT + disk as f64 * DISK
}

/// Answer to `POST /api/v0/price/estimate`.
pub fn estimate(content: &Value) -> Value {
    let second = hourly(content) / 3600.0;
    json!({
        "required_tokens": second, "payment_type": "credit", "cost": format!("{second:.18}"), "detail": [],
        "charged_address": content["address"],
    })
}

/// An aggregate of the network's owner.
pub fn aggregate(key: &str) -> Option<Value> {
    match key {
        "pricing" => Some(pricing()),
        "vm-images" => Some(images()),
        _ => None,
    }
}

fn images() -> Value {
    let rootfs: serde_json::Map<String, Value> = IMAGES
        .iter()
        .map(|(name, shown, hash)| {
            ((*name).to_owned(), json!({ "hash": hash, "display_name": shown, "min_disk_mib": 20_480 }))
        })
        .collect();
    json!({
        "rootfs": rootfs, "runtimes": {}, "firmwares": {},
        "defaults": { "rootfs": "debian12", "runtime": null, "firmware": null },
    })
}

fn pricing() -> Value {
    let entity = |credit: &str, tiers: Value| {
        json!({
            "price": {
                "storage": { "payg": "0.000000977", "holding": "0.05", "credit": "0.17967489030626108" },
                "compute_unit": { "payg": "0.055", "holding": "1000", "credit": credit },
            },
            "tiers": tiers,
            "compute_unit": { "vcpus": 1, "disk_mib": UNIT_DISK_MIB, "memory_mib": UNIT_MEMORY_MIB },
        })
    };
    let tiers: Vec<Value> = [1, 2, 4, 6, 8, 12]
        .iter()
        .zip(1..)
        .map(|(units, number)| json!({ "id": format!("tier-{number}"), "compute_units": units }))
        .collect();
    let gpu = |model: &str| json!([{ "id": "tier-1", "vram": 20480, "model": model, "compute_units": 3 }]);
    json!({
        "instance": entity("14250", tiers.clone().into()),
        "instance_confidential": entity("28500", tiers.into()),
        "instance_gpu_standard": entity("43125", gpu("RTX 4000 ADA")),
        "instance_gpu_premium": entity("86250", gpu("A100")),
    })
}
