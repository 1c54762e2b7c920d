"""An authority of a test's own, and certificates that it signs."""

import base64
import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PEM = serialization.Encoding.PEM


def pin(cert: Path) -> str:
    """The SHA-256 of a certificate's public key in base64, as RFC 7469 pins it."""
    key = x509.load_pem_x509_certificate(cert.read_bytes()).public_key()
    info = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(info).digest()).decode()


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


@dataclass(frozen=True)
class Authority:
    """Signs certificates for 127.0.0.1 and localhost; its own stands in `<folder>/<name>.pem`."""

    folder: Path
    name: str = "authority"
    _key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def certificate(self) -> Path:
        path = self.folder / f"{self.name}.pem"
        if not path.exists():
            constraints = x509.BasicConstraints(ca=True, path_length=0)
            built = self._builder(self.name, self._key).add_extension(constraints, critical=True)
            path.write_bytes(built.sign(self._key, hashes.SHA256()).public_bytes(PEM))
        return path

    def sign(self, name: str, cert: Path, key: Path) -> int:
        """Writes a new pair of certificate and key, and gives the certificate's serial number."""
        private = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(IPv4Address("127.0.0.1"))])
        signed = self._builder(name, private).add_extension(names, critical=False).sign(self._key, hashes.SHA256())
        key.write_bytes(private.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
        cert.write_bytes(signed.public_bytes(PEM))
        return signed.serial_number

    def _builder(self, name: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name(self.name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=2))
        )
