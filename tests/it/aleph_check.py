"""Checks what `baal aleph preview` makes with other people's code: aleph-message (schema and hash), eth-account
(signatures of the account), cryptography (signature of the ephemeral key).

    aleph_check.py message ADDRESS < preview.json
    aleph_check.py headers ADDRESS METHOD PATH DOMAIN < headers.json

Prints what it found as JSON, or says on standard error what is wrong and exits with 1.
"""

import base64
import datetime
import hashlib
import json
import sys

from aleph_message import parse_message
from aleph_message.models import InstanceMessage
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from eth_account import Account
from eth_account.messages import encode_defunct


def require(holds, what):
    if not holds:
        raise ValueError(what)


def signer(payload, signature):
    """The address whose key signed these bytes (EIP-191)."""
    return Account.recover_message(encode_defunct(primitive=payload), signature=signature)


def check_message(preview, address):
    message = preview["message"]
    content = message["item_content"]
    digest = hashlib.sha256(content.encode()).hexdigest()
    require(digest == message["item_hash"], "the hash is not that of the content")
    # Nodes add the parsed content; the model compares it with item_content and checks the hash once more.
    parsed = parse_message({**message, "content": json.loads(content)})
    require(isinstance(parsed, InstanceMessage), "not an instance message")
    require(message["sender"] == address == parsed.content.address, "not from the account")
    buffer = "\n".join([message["chain"], message["sender"], message["type"], message["item_hash"]])
    require(signer(buffer.encode(), message["signature"]) == address, "the signature is not the account's")
    instance = parsed.content
    return {
        "channel": parsed.channel,
        "hypervisor": instance.environment.hypervisor.value,
        "image": instance.rootfs.parent.ref,
        "disk_mib": instance.rootfs.size_mib,
        "memory_mib": instance.resources.memory,
        "vcpus": instance.resources.vcpus,
        "payment": instance.payment.type.value,
        "node": instance.requirements.node.node_hash,
        "ssh_keys": instance.authorized_keys,
        "metadata": sorted(instance.metadata),
    }


def time_of(text):
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))


def check_headers(headers, address, method, path, domain):
    now = datetime.datetime.now(datetime.timezone.utc)
    key = json.loads(headers["X-SignedPubKey"])
    payload = bytes.fromhex(key["payload"])
    grant = json.loads(payload)
    require(key["sender"] == address == grant["address"], "the key is not granted by the account")
    require(signer(payload, key["signature"]) == address, "the key is not signed by the account")
    require(grant["domain"] == key["content"]["domain"] == domain, "the key is for another node")
    require((grant["alg"], grant["chain"]) == ("ECDSA", "ETH"), "the key is of another kind")
    left = time_of(grant["expires"]) - now
    require(datetime.timedelta(0) < left <= datetime.timedelta(hours=24), "the key has expired")

    jwk = grant["pubkey"]
    require((jwk["kty"], jwk["crv"]) == ("EC", "P-256"), "the key is on another curve")
    number = lambda text: int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), "big")
    public = ec.EllipticCurvePublicNumbers(number(jwk["x"]), number(jwk["y"]), ec.SECP256R1()).public_key()
    operation = json.loads(headers["X-SignedOperation"])
    payload, signature = bytes.fromhex(operation["payload"]), bytes.fromhex(operation["signature"])
    require(len(signature) == 64, "the operation's signature is not 64 bytes")
    halves = [int.from_bytes(half, "big") for half in (signature[:32], signature[32:])]
    try:
        public.verify(encode_dss_signature(*halves), payload, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise ValueError("the operation is not signed by the ephemeral key") from None
    said = json.loads(payload)
    require((said["method"], said["path"], said["domain"]) == (method, path, domain), "another operation is signed")
    require(abs(time_of(said["time"]) - now) < datetime.timedelta(minutes=2), "the operation is of another time")
    return {"domain": domain}


def main():
    what, *arguments = sys.argv[1:]
    check = {"message": check_message, "headers": check_headers}[what]
    try:
        print(json.dumps(check(json.load(sys.stdin), *arguments)))
    except Exception as error:  # Whatever is wrong with the input, it is refused.
        sys.exit(f"refused: {type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
