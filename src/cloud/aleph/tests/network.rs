//! What the network says of itself: the gateway, money, images, which nodes there are.

use super::*;

#[tokio::test]
async fn the_gateway_says_whether_it_routes_a_name() {
    for (code, body, expected) in [
        (200, json!({"active": true}), Some(true)),
        (200, json!({"active": false}), Some(false)),
        (200, json!({}), Some(false)),
        (404, json!(null), Some(false)),
        (500, json!(null), None),
    ] {
        let gateway = Server::saying(code, body).await;
        let aleph = aleph(&[&gateway]);
        assert_eq!(aleph.routed(HASH).await.ok(), expected);
        assert_eq!(gateway.seen()[0].uri.path(), format!("/api/hash/{HASH}"));
        assert_eq!(aleph.public_name(HASH).unwrap(), "report-wife-attitude-advice.vm.localhost:18443");
    }
}

#[tokio::test]
async fn funds_are_the_balance_and_the_listed_price() {
    let pricing = json!({"data": {"pricing": {"instance": {
        "compute_unit": {"vcpus": 1, "memory_mib": 2048, "disk_mib": 20480},
        "price": {"compute_unit": {"credit": "20000"}, "storage": {"credit": "0.1"}},
    }}}});
    let ccn = Server::new(move |seen| match seen.uri.path() {
        path if path.ends_with("/balance") => {
            reply(json!({"balance": 0.0, "locked_amount": 0.0, "credit_balance": 3_000_000, "address": "x"}))
        }
        path if path.contains("/aggregates/") => reply(pricing.clone()),
        _ => Some((404, String::new())),
    })
    .await;
    let rich = aleph(&[&ccn]);
    for _ in 0..2 {
        let funds = rich.funds().await.unwrap();
        assert_eq!(funds, Funds { address: rich.address(), credits: 3_000_000, hourly: 20_000 });
    }
    let asked = ccn.seen().iter().filter(|seen| seen.uri.path().contains("/aggregates/")).count();
    assert_eq!(asked, 1, "the price is kept");

    let bare = Server::new(|seen| match seen.uri.path().ends_with("/balance") {
        true => Some((404, String::new())),
        false => Some((500, String::new())),
    })
    .await;
    let poor = aleph(&[&bare]);
    assert_eq!(poor.funds().await.unwrap(), Funds { address: poor.address(), credits: 0, hourly: 14_250 });
    assert!(hasty(&[&Server::hanging().await]).funds().await.is_err(), "no balance is no answer");
}

#[tokio::test]
async fn a_balance_or_price_without_an_end_or_from_elsewhere_is_none() {
    let rich = Server::saying(200, json!({"credit_balance": 3_000_000})).await;
    let elsewhere = rich.url.clone();
    let redirects = Server::new(move |_| Some((307, elsewhere.clone()))).await;
    let endless =
        Server::new(|_| Some((200, format!("{{\"credit_balance\": 1, \"x\": \"{}\"}}", "x".repeat(http::ANSWER)))))
            .await;
    let nonsense = Server::saying(200, json!({"credit_balance": "many"})).await;
    for bad in [&redirects, &endless, &nonsense] {
        assert!(aleph(&[bad]).funds().await.is_err());
        assert!(aleph(&[bad]).hourly().await.is_err());
    }
    assert!(rich.seen().is_empty());
    let funds = aleph(&[&endless, &rich]).funds().await.unwrap();
    assert_eq!((funds.credits, funds.hourly), (3_000_000, 14_250));
}

#[tokio::test]
async fn the_image_is_the_networks_debian_12_or_the_known_one() {
    let other = "11".repeat(32);
    let rootfs = async |hash: &str| {
        let debian = json!({"hash": hash, "display_name": "Debian 12"});
        Server::saying(200, json!({"data": {"vm-images": {"rootfs": {"debian12": debian}}}})).await
    };
    let ccn = rootfs(&other).await;
    let image = async |aleph: &Aleph| {
        let made = instance(aleph, ccn.crn()).await;
        let content: Value = serde_json::from_str(made.message["item_content"].as_str().unwrap()).unwrap();
        content["rootfs"]["parent"]["ref"].as_str().unwrap().to_owned()
    };
    let listing = aleph(&[&ccn]);
    assert_eq!(image(&listing).await, other);
    assert_eq!(image(&listing).await, other);
    assert_eq!(ccn.seen().len(), 1, "the image is kept");
    for bad in [Server::hanging().await, Server::saying(200, json!({"data": {}})).await] {
        assert_eq!(image(&hasty(&[&bad])).await, HASH);
        assert_eq!(image(&hasty(&[&ccn, &bad])).await, HASH, "one word of two is not enough");
    }
    let (known, same) = (rootfs(HASH).await, rootfs(&other).await);
    assert_eq!(image(&aleph(&[&ccn, &known])).await, HASH);
    assert_eq!(image(&aleph(&[&ccn, &same])).await, other);
}

#[tokio::test]
async fn candidates_come_from_the_list_of_nodes() {
    let node = json!({
        "hash": "cd".repeat(32), "name": "n", "address": "http://127.0.0.1:4/", "score": 0.9, "ipv6_check": {"host": true, "vm": true},
        "qemu_support": true, "system_usage": {"cpu": {"count": 8, "load_average": {"load5": 0.1}},
        "mem": {"total_kB": 1 << 25, "available_kB": 1 << 24}, "disk": {"available_kB": 1 << 30}},
    });
    let pricing = json!({"data": {"pricing": {"instance": {
        "compute_unit": {"vcpus": 1, "memory_mib": 2048, "disk_mib": 20480},
        "price": {"compute_unit": {"credit": "20000"}, "storage": {"credit": "0.1"}},
    }}}});
    let list = Server::new(move |seen| match seen.uri.path() {
        path if path.contains("/aggregates/") => reply(pricing.clone()),
        _ => reply(json!({"crns": [node, "rubbish"]})),
    })
    .await;
    let aleph = aleph(&[&list]);
    let found = aleph.candidates(&HashSet::new()).await.unwrap();
    assert_eq!(found[0].url, "http://127.0.0.1:4");
    let none = aleph.candidates(&HashSet::from(["cd".repeat(32)])).await;
    assert!(matches!(none, Err(AlephError::NoNode { seen: 2 })));

    // The preview takes the best of them, and sends nothing.
    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        options: preview::Options,
    }
    let cli: Cli = clap::Parser::parse_from(["preview"]);
    let shown = preview::run(&config(&[&list]), &cli.options).await.unwrap();
    assert_eq!(shown["crn"]["hash"], json!("cd".repeat(32)));
    assert_eq!(shown["price"], json!({"credits_per_hour": 20_000, "credits_per_day": 480_000, "from": "network"}));
    assert_eq!(shown["image_from"], "built in");
    assert_eq!(shown["installation_from"], "made up");
    assert!(list.seen().iter().all(|seen| seen.method == Method::GET));
}
