//! What instances cost and what the account has.
//!
//! Prices are credits an hour in the `pricing` aggregate (`pricing.instance`: a compute unit of so many processors, MiB of
//! memory and MiB of disk; `price.compute_unit.credit`, and `price.storage.credit` for a MiB of disk beyond the units').
//! An instance takes as many units as its processors or its memory need, whichever is more (pyaleph, `services/cost.py`).
//! The price estimate of a node is the same sum by the second.

use std::time::Duration;

use aleph_sdk::aggregate_models::pricing::PRICING_ADDRESS;
use aleph_types::account::Account as _;
use reqwest::StatusCode;
use serde_json::Value;
use tracing::warn;

use super::http::{garbled, send};
use super::instances::Size;
use super::{Aleph, AlephError, Ccn, Funds};

/// How long a price is believed.
const PRICE_AGE: Duration = Duration::from_secs(600);

/// A compute unit and what it costs.
struct Tariff {
    vcpus: u64,
    memory_mib: u64,
    disk_mib: u64,
    /// Credits an hour for a unit.
    unit: f64,
    /// Credits an hour for a MiB of disk beyond the units'.
    storage: f64,
}

/// November 2026: 14,250 credits an hour for 1 processor, 2 GiB and 20 GiB. Disk beyond is taken for as dear as the same
/// part of a unit, which is more than it costs: too careful a preflight beats an instance that ends after a day.
const FALLBACK: Tariff =
    Tariff { vcpus: 1, memory_mib: 2048, disk_mib: 20_480, unit: 14_250.0, storage: 14_250.0 / 20_480.0 };

impl Aleph {
    /// The account's credits and what an instance costs.
    pub async fn funds(&self) -> Result<Funds, AlephError> {
        let credits = self.first(|ccn| self.credits_at(ccn)).await?;
        let hourly = self.hourly().await.unwrap_or_else(|error| {
            warn!(%error, "the price of an instance could not be read; the one known here is used");
            self.fallback_hourly()
        });
        let funds = Funds { address: self.address(), credits, hourly };
        self.funds.set(funds.clone());
        Ok(funds)
    }

    /// The same, as this process learnt it within the last `age`; nothing is asked.
    pub fn known_funds(&self, age: Duration) -> Option<Funds> {
        self.funds.get(age)
    }

    /// The same, however long ago this process learnt it, and how long that is.
    pub fn last_funds(&self) -> Option<(Duration, Funds)> {
        self.funds.last()
    }

    /// Credits an instance costs an hour, as the network says, ten minutes old at most.
    pub(super) async fn hourly(&self) -> Result<u64, AlephError> {
        if let Some(hourly) = self.hourly.get(PRICE_AGE) {
            return Ok(hourly);
        }
        let pricing = self.first(|ccn| self.pricing_at(ccn)).await?;
        let hourly = Tariff::read(&pricing).and_then(|tariff| tariff.hourly(self.size));
        let hourly = hourly.ok_or_else(|| AlephError::Garbled {
            what: "the network's price list".into(),
            cause: "it has no price in credits for instances".into(),
        })?;
        self.hourly.set(hourly);
        Ok(hourly)
    }

    /// The price to reckon with where the network does not say.
    pub(super) fn fallback_hourly(&self) -> u64 {
        FALLBACK.hourly(self.size).unwrap_or(u64::MAX)
    }

    async fn credits_at(&self, ccn: &Ccn) -> Result<u64, AlephError> {
        let request = self.http.get(&format!("{}/api/v0/addresses/{}/balance", ccn.url, self.account.address()));
        let answer = send(request, &ccn.name(), self.deadlines.read).await?;
        // An address that never had anything is unknown.
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(0);
        }
        let balance = answer.ok(&ccn.name())?;
        let credits = balance.get("credit_balance").and_then(Value::as_u64);
        credits.ok_or_else(|| garbled(&ccn.name(), "a balance without credits"))
    }

    async fn pricing_at(&self, ccn: &Ccn) -> Result<Value, AlephError> {
        self.aggregate_at(ccn, &PRICING_ADDRESS, "pricing").await
    }
}

impl Tariff {
    fn read(aggregate: &Value) -> Option<Self> {
        let instance = aggregate.pointer("/pricing/instance")?;
        let count = |path| instance.pointer(path)?.as_u64().filter(|count| *count > 0);
        // Decimal numbers are strings there.
        let credits = |path| {
            let value: &Value = instance.pointer(path)?;
            let number = value.as_f64().or_else(|| value.as_str()?.parse().ok())?;
            Some(number).filter(|number: &f64| number.is_finite() && *number >= 0.0)
        };
        Some(Self {
            vcpus: count("/compute_unit/vcpus")?,
            memory_mib: count("/compute_unit/memory_mib")?,
            disk_mib: count("/compute_unit/disk_mib")?,
            unit: credits("/price/compute_unit/credit").filter(|unit| *unit > 0.0)?,
            storage: credits("/price/storage/credit")?,
        })
    }

    /// Rounded up. None where it is no sensible number.
    fn hourly(&self, size: Size) -> Option<u64> {
        let units = u64::from(size.vcpus).div_ceil(self.vcpus).max(size.memory_mib.div_ceil(self.memory_mib));
        let more_disk = size.disk_mib.saturating_sub(units.saturating_mul(self.disk_mib));
        let price = (units as f64).mul_add(self.unit, more_disk as f64 * self.storage).ceil();
        (price.is_finite() && (1.0..9e15).contains(&price)).then_some(price as u64)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn size(vcpus: u32, memory_gib: u64, disk_gib: u64) -> Size {
        Size { vcpus, memory_mib: memory_gib << 10, disk_mib: disk_gib << 10 }
    }

    fn aggregate(unit: Value, storage: Value) -> Value {
        json!({"pricing": {"instance": {
            "compute_unit": {"vcpus": 1, "memory_mib": 2048, "disk_mib": 20480},
            "price": {"compute_unit": {"credit": unit, "holding": "1000"}, "storage": {"credit": storage}},
        }}})
    }

    #[test]
    fn an_instance_costs_its_units_and_the_disk_beyond_them() {
        let tariff = Tariff::read(&aggregate(json!("14250"), json!("0.25"))).unwrap();
        assert_eq!(tariff.hourly(size(1, 2, 20)), Some(14_250));
        assert_eq!(tariff.hourly(size(1, 2, 10)), Some(14_250));
        assert_eq!(tariff.hourly(size(2, 2, 20)), Some(28_500));
        assert_eq!(tariff.hourly(size(1, 5, 20)), Some(3 * 14_250));
        assert_eq!(tariff.hourly(size(1, 2, 24)), Some(14_250 + 1024));
    }

    #[test]
    fn a_price_list_without_a_sensible_price_is_none() {
        for (unit, storage) in
            [(json!("0"), json!("0")), (json!("NaN"), json!(0)), (json!(null), json!(0)), (json!("1"), json!(-1))]
        {
            assert!(Tariff::read(&aggregate(unit, storage)).is_none());
        }
        assert!(Tariff::read(&json!([])).is_none());
    }

    #[test]
    fn where_the_network_does_not_say_the_known_price_grows_with_the_size() {
        assert_eq!(FALLBACK.hourly(size(1, 2, 20)), Some(14_250));
        assert_eq!(FALLBACK.hourly(size(4, 8, 80)), Some(4 * 14_250));
        assert_eq!(FALLBACK.hourly(size(1, 2, 40)), Some(2 * 14_250));
    }

    #[test]
    fn a_shortage_says_whose_account_lacks_how_much() {
        let funds = Funds { address: "0xB68B".into(), credits: 1_000_000, hourly: 14_250 };
        assert_eq!(funds.check(2), Ok(()));
        let told = funds.check(3).unwrap_err().to_string();
        for part in ["0xB68B", "has 1000000 credits", "1026000 are needed", "3 machines", "app.aleph.cloud", "MAX_VMS"]
        {
            assert!(told.contains(part), "{part} in {told}");
        }
    }
}
