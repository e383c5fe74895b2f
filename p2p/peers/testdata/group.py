# Makes group.json from what the package comment says: python3 group.py > group.json
import hashlib, hmac, json

A = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"
B = "12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo"

def raw(peer_id):
    n = 0
    for c in peer_id:
        n = n * 58 + "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz".index(c)
    return n.to_bytes(38, "big")

def mac(key, *parts):
    return hmac.new(key, b"".join(parts), hashlib.sha256).digest()

def vector(secret, opener, answerer, seed):
    key = mac(mac(bytes(32), secret), b"narbor group 1", b"\x01")  # HKDF: extract, and the first round of expand
    nonces = [hashlib.sha256(b"%s nonce %d" % (role, seed)).digest() for role in (b"opener", b"answerer")]
    ids = [raw(i) for i in (opener, answerer)]
    proofs = [mac(key, bytes([role]), *nonces, *[bytes([len(i)]) + i for i in ids]) for role in (1, 2)]
    return {"secret": secret.hex(), "key": key.hex(), "opener": opener, "answerer": answerer,
            "openerNonce": nonces[0].hex(), "answererNonce": nonces[1].hex(),
            "openerProof": proofs[0].hex(), "answererProof": proofs[1].hex()}

print(json.dumps([vector(b"0123456789abcdef", A, B, 1), vector(b"0123456789abcdef", B, A, 1),
                  vector(b"EpKWLXPlLvcxGgpXdWiDSgqqfGvBq3c5sm2Xh2LfJYA=", A, B, 2), vector(bytes(range(200)), B, A, 3)], indent=1))
