#!/usr/bin/env python3
"""Writes format1.json: python3 format1.py > format1.json

Computes issuer scripts in Format 1 and what belongs to them from the formulas, with the
ciphers and the CMAC of pyca/cryptography 48.0.0 (OpenSSL) and nothing of cardkms. Before it
writes, it must give the numbers that strexp/card42 prints, a card in software whose author
computed them with the JCE and openssl.
"""
import hashlib
import json
import warnings

warnings.filterwarnings("ignore")  # 3DES is deprecated there, and what these cards have
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC

h = bytes.fromhex


def x(b):
    return b.hex().upper()


class TDEA:
    block, name = 8, "ccd-5"

    def ecb(self, k, m):
        e = Cipher(TripleDES(k + k[:8]), modes.ECB()).encryptor()
        return e.update(m) + e.finalize()

    def cbc(self, k, m):
        e = Cipher(TripleDES(k + k[:8]), modes.CBC(bytes(8))).encryptor()
        return e.update(m) + e.finalize()

    def aligned_mac(self, k, m):
        """ISO/IEC 9797-1, MAC algorithm 3, over whole blocks."""
        single = lambda key: Cipher(TripleDES(key * 3), modes.ECB())
        state = bytes(8)
        for i in range(0, len(m), 8):
            e = single(k[:8]).encryptor()
            state = e.update(bytes(a ^ b for a, b in zip(state, m[i:i + 8])))
        state = single(k[8:]).decryptor().update(state)
        return single(k[:8]).encryptor().update(state)

    def mac(self, k, m):
        return self.aligned_mac(k, pad(m, 8))

    def master(self, imk, pan, psn):
        digits = pan + psn
        if len(pan) > 16:  # option B
            packed = h(digits if len(digits) % 2 == 0 else "0" + digits)
            text = hashlib.sha1(packed).hexdigest()
            y = [c for c in text if c.isdigit()] + [str("abcdef".index(c)) for c in text if not c.isdigit()]
            digits = "".join(y[:16])
        y = h(digits.rjust(16, "0")[-16:])
        return self.ecb(imk, y + bytes(b ^ 0xFF for b in y))

    def session(self, mk, r):
        r = r.ljust(8, b"\0")
        return self.ecb(mk, r[:2] + b"\xF0" + r[3:] + r[:2] + b"\x0F" + r[3:])


class Rijndael:
    block, name = 16, "aes-c"

    def ecb(self, k, m):
        e = Cipher(AES(k), modes.ECB()).encryptor()
        return e.update(m) + e.finalize()

    def cbc(self, k, m):
        e = Cipher(AES(k), modes.CBC(bytes(16))).encryptor()
        return e.update(m) + e.finalize()

    def mac(self, k, m):
        c = CMAC(AES(k))
        c.update(m)
        return c.finalize()

    aligned_mac = mac

    def master(self, imk, pan, psn):  # option C
        return self.ecb(imk, h((pan + psn).rjust(32, "0")))

    def session(self, mk, r):
        return self.ecb(mk, r.ljust(16, b"\0"))


def pad(m, n):
    m += b"\x80"
    return m + bytes(-len(m) % n)


def tlv(tag, value):
    length = bytes([len(value)]) if len(value) < 0x80 else bytes([0x81, len(value)])
    return bytes([tag]) + length + value


def script(c, smi, smc, arqc, commands):
    """commands: (plain C-APDU without Lc, data, encipher?)"""
    kmac, kenc = c.session(smi, arqc), c.session(smc, arqc)
    chain, out = arqc.ljust(c.block, b"\0"), []
    for header, data, encipher in commands:
        header = bytes([header[0] & 0xF0 | 0x0C]) + header[1:]
        obj = b""
        if encipher:
            obj = tlv(0x87, b"\x01" + c.cbc(kenc, pad(data, c.block)))
        elif data:
            obj = tlv(0x81, data)
        chain = c.aligned_mac(kmac, chain + pad(header, c.block) + (pad(obj, c.block) if obj else b""))
        field = obj + tlv(0x8E, chain[:8])
        out.append(header + bytes([len(field)]) + field)
    return out


def written(commands, secured):
    return [{"plain": x(p + (bytes([len(d)]) + d if d else b"")), "encipher": e, "secured": x(s)}
            for (p, d, e), s in zip(commands, secured)]


CARD42 = {"repo": "strexp/card42", "commit": "f48d6d4453f5dcb7c9d8ffa02a37776ed4341c5c"}


def published():
    """What card42 prints, by file of test/emv/unit."""
    arqc, ones, twos = h("AABBCCDDEEFF0011"), h("11" * 16), h("22" * 16)
    messaging, keys = "card/crypto/SecureMessagingTest.java", "host/crypto/AesVectorTest.java"
    scripts = [
        (TDEA(), [(h("80240000"), b"", False)], ["8C2400000A8E08E99B14DE69EC0CA8"]),
        (Rijndael(), [(h("80240000"), h("241234FFFFFFFFFF"), True), (h("80180000"), b"", False)],
         ["8C2400001D87110166BF3EAEE484A39148DCDB28D95E786D8E08346FDAC65189C7E9",
          "8C1800000A8E0812090342118B5B0B"]),
    ]
    out = []
    for c, commands, want in scripts:
        secured = script(c, ones, twos, arqc, commands)
        assert [x(s) for s in secured] == want, (c.name, [x(s) for s in secured])
        out.append({"source": {**CARD42, "path": messaging}, "profile": c.name, "smi_mk": x(ones), "smc_mk": x(twos),
                    "arqc": x(arqc), "commands": written(commands, secured)})
    c, imk = Rijndael(), h("0F0E0D0C0B0A09080706050403020100")
    source = {**CARD42, "path": keys}
    derived = []
    # card42 has the PAN 1234567890: zeros before it change nothing under option C.
    for psn, want in ("00", "F5C0A799FFBED1DB4F9BD2E54BF2CFD9"), ("12", "CBCE431053E9874B1AF0B115D6E04C2A"):
        assert x(c.master(imk, "001234567890", psn)) == want
        derived.append({"source": source, "key": x(imk), "pan": "001234567890", "psn": psn, "derived": want})
    for field, r, want in ("atc", h("0001"), "F06C204C70D2AD0CD1FA3B8CE15958F8"), ("arqc", arqc, "C1994753F99E6196418C14F7DD5F1AF9"):
        assert x(c.session(imk, r)) == want
        derived.append({"source": source, "key": x(imk), field: x(r), "derived": want})
    return out, derived


def flow(c, pan, psn):
    """From ARQC to script, with the lengths at which the encoding changes."""
    imk = {n: hashlib.sha256(f"{c.name} {n}".encode()).digest()[:16] for n in ("ac", "smi", "smc")}
    master = {n: c.master(k, pan, psn) for n, k in imk.items()}
    atc, data = h("001C"), h("00000000999900000000000001248000000000012420990600ABCDEF1218000000")
    csu, prop = h("83800000"), h("0102030405")
    ac = c.session(master["ac"], atc)
    arqc = c.mac(ac, data)[:8]
    some = lambda n: bytes(i * 7 & 0xFF for i in range(n))
    commands = [
        (h("80180000"), b"", False), (h("80240002"), h("249999FFFFFFFFFF"), True), (h("04DA9F14"), some(1), False),
        (h("80DA9F36"), some(127), False), (h("84DC0114"), some(128), False), (h("80DC0114"), some(242), False),
        (h("80DA9F14"), some(1), True), (h("80DA9F14"), some(7), True), (h("80DA9F14"), some(16), True),
        (h("80DC0114"), some(111), True), (h("80DC0114"), some(112), True), (h("80DC0114"), some(239), True),
        (h("801E0000"), b"", False),
    ]
    return {"profile": c.name, "imk_ac": x(imk["ac"]), "imk_smi": x(imk["smi"]), "imk_smc": x(imk["smc"]), "pan": pan, "psn": psn,
            "atc": x(atc), "data": x(data), "arqc": x(arqc), "csu": x(csu), "proprietary": x(prop),
            "arpc": x(c.mac(ac, arqc + csu + prop)[:4]),
            "commands": written(commands, script(c, master["smi"], master["smc"], arqc, commands))}


def main():
    scripts, derived = published()
    print(json.dumps({
        "source": "published and derived: the numbers of the source that each names; flows: format1.py beside this file",
        "spec": "EMV Book 2, Sections 8.2.2, 9.2 and 9.3, Annexes A1.2 to A1.4, as strexp/card42 and (3DES only) mrautio/emv-card-simulator have them",
        "verified_by": "format1.py with pyca/cryptography 48.0.0 on OpenSSL 3",
        "published": scripts, "derived": derived,
        "flows": [flow(TDEA(), "4929717171717171717", "01"), flow(TDEA(), "1234567890123456", "00"), flow(Rijndael(), "1234567890123456", "01")],
    }, indent=1))


main()
