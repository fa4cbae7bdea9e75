"""Signed and encrypted artefacts: written, read, and refused."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from shipping import copied, edited, quantised, shipped, stored_inputs

import autocompress
from autocompress.artifact import keys
from autocompress.artifact.encryption import MAGIC, decrypted, encrypted
from autocompress.artifact.folder import write_artifact
from autocompress.artifact.options import ExportOptions
from autocompress.cli.main import main
from autocompress.errors import EnvironmentFault, InputError
from autocompress.testing.techniques import workbench

PEM, RAW_PRIVATE, RAW_PUBLIC = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                serialization.PublicFormat.SubjectPublicKeyInfo)


def key_pair(folder: Path, name: str) -> tuple[Path, Path]:
    """Files of a private and a public key."""
    key = Ed25519PrivateKey.generate()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    private.write_bytes(key.private_bytes(PEM, RAW_PRIVATE, serialization.NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(PEM, RAW_PUBLIC))
    return private, public


@pytest.fixture(scope="session")
def keyring(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys: own.pem, own.pub.pem, other.pem, other.pub.pem, aes.hex, other.hex."""
    folder = tmp_path_factory.mktemp("keys")
    key_pair(folder, "own")
    key_pair(folder, "other")
    (folder / "aes.hex").write_text("0f" * 32 + "\n")
    (folder / "other.hex").write_bytes(bytes(range(32)))
    return folder


@pytest.fixture(scope="session")
def protected(keyring: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The classifier of 20 numbers, signed and encrypted."""
    bench = workbench("mlp")
    return shipped(bench, quantised(bench), tmp_path_factory.mktemp("artifact") / "protected",
                   options=ExportOptions.of(keyring / "own.pem", keyring / "aes.hex"))


def verify(folder: Path, keyring: Path, key: str = "own.pub.pem", decrypt: str = "aes.hex",
           flags: tuple[str, ...] = ()) -> int:
    return main(["verify", str(folder), "--key", str(keyring / key), "--decrypt", str(keyring / decrypt), *flags])


def test_a_signed_and_encrypted_artefact_is_verified_and_used_with_its_keys(
    protected: Path, artifact: Path, keyring: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert sorted(path.name for path in protected.iterdir()) == [
        "README.md", "manifest.json", "manifest.json.sig", "model.onnx.enc", "samples.safetensors.enc"]
    edited_machine = json.loads((protected / "manifest.json").read_bytes())
    assert edited_machine["encrypted"] == {"cipher": "AES-256-GCM", "files": ["model.onnx", "samples.safetensors"]}
    assert b"onnx" not in (protected / "model.onnx.enc").read_bytes()[len(MAGIC):]
    network = autocompress.load(protected, key=keyring / "own.pub.pem", decrypt=keyring / "aes.hex")
    samples = stored_inputs(artifact)["input"]
    assert np.array_equal(network(samples)["output"], autocompress.load(artifact)(samples)["output"])
    np.save(tmp_path / "a.npy", samples)
    assert main(["predict", str(protected), str(tmp_path / "a.npy"), "--decrypt", str(keyring / "aes.hex")]) == 0
    capsys.readouterr()
    verify(protected, keyring, flags=("--json",))
    states = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    for name, said in (("signature", "signed by the owner"), ("files", "open with the key"), ("agreement", "samples")):
        assert states[name]["state"] == "holds" and said in states[name]["found"]


def test_other_programs_check_the_signature_too(protected: Path, keyring: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not here")
    done = subprocess.run(["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", str(keyring / "own.pub.pem"), "-rawin",
                           "-in", "manifest.json", "-sigfile", "manifest.json.sig"], cwd=protected, check=False,
                          capture_output=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("key", "decrypt", "said"), [
    ("other.pub.pem", "aes.hex", "somebody else signed it"), ("own.pub.pem", "other.hex", "another key")])
def test_wrong_keys_end_with_2(protected: Path, keyring: Path, key: str, decrypt: str, said: str,
                               capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(protected, keyring, key, decrypt) == 2
    assert said in capsys.readouterr().err
    with pytest.raises(InputError, match=said):
        autocompress.load(protected, key=keyring / key, decrypt=keyring / decrypt)


def test_encrypted_files_are_not_opened_without_a_key(protected: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="--decrypt"):
        autocompress.load(protected)
    assert main(["verify", str(protected)]) == 2
    assert "--decrypt" in capsys.readouterr().err


def test_what_is_not_signed_is_refused_where_a_signature_is_asked_for(artifact: Path, keyring: Path) -> None:
    with pytest.raises(InputError, match="must be signed"):
        autocompress.load(artifact, key=keyring / "own.pub.pem")
    assert main(["verify", str(artifact), "--key", str(keyring / "own.pub.pem")]) == 2


@pytest.mark.parametrize("name", ["manifest.json", "manifest.json.sig", "model.onnx.enc"])
def test_a_change_of_what_is_signed_is_noticed(protected: Path, keyring: Path, tmp_path: Path, name: str) -> None:
    path = copied(protected, tmp_path) / name
    data = path.read_bytes()
    path.write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
    assert verify(tmp_path, keyring) == 2
    path.write_bytes(data[:-1])
    assert verify(tmp_path, keyring) == 2


def test_a_manifest_with_new_hashes_does_not_pass_for_the_signed_one(protected: Path, keyring: Path,
                                                                     tmp_path: Path) -> None:
    edited(protected, tmp_path, trial=4)
    assert verify(tmp_path, keyring) == 2


@pytest.mark.parametrize("content", [
    b"", b"nonsense", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", b"\0" * 100_000])
def test_what_is_no_key_ends_with_2_before_anything_is_loaded(artifact: Path, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    for read in (keys.private_key, keys.public_key, keys.secret_key):
        with pytest.raises(InputError, match=r"must (hold|be in)"):
            read(file)
    assert main(["export", "nowhere", "--out", str(tmp_path / "a"), "--sign", str(file)]) == 2
    assert main(["predict", str(artifact), "-", "--decrypt", str(file)]) == 2
    with pytest.raises(InputError, match="No such file"):
        keys.secret_key(tmp_path / "gone")


def test_keys_of_other_kinds_are_refused(tmp_path: Path) -> None:
    other = X25519PrivateKey.generate()
    (tmp_path / "x").write_bytes(other.private_bytes(PEM, RAW_PRIVATE, serialization.NoEncryption()))
    (tmp_path / "x.pub").write_bytes(other.public_key().public_bytes(PEM, RAW_PUBLIC))
    for read, name in ((keys.private_key, "x"), (keys.public_key, "x.pub")):
        with pytest.raises(InputError, match="another kind"):
            read(tmp_path / name)


def test_without_the_extra_the_command_to_install_it_is_told(artifact: Path, keyring: Path,
                                                             monkeypatch: pytest.MonkeyPatch,
                                                             capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(keys, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentFault, match=r"pip install 'autocompress\[security\]'"):
        autocompress.load(artifact, key=keyring / "own.pub.pem")
    for flags in (("--key", "own.pub.pem"), ("--decrypt", "aes.hex")):
        assert main(["verify", str(artifact), flags[0], str(keyring / flags[1])]) == 4
    assert "autocompress[security]" in capsys.readouterr().err
    assert autocompress.load(artifact), "and what is neither needs none"


def test_files_cannot_be_exchanged_or_cut() -> None:
    key, data = bytes(32), b"content"
    hidden = encrypted(data, "a", key)
    assert decrypted(hidden, "a", key) == data and encrypted(data, "a", key) != hidden
    for other in (hidden[:-1], hidden[:20], b"", b"x" + hidden[1:]):
        with pytest.raises(InputError, match="must"):
            decrypted(other, "a", key)
    with pytest.raises(InputError, match="must open"):
        decrypted(hidden, "b", key)


def test_an_artefact_written_anew_keeps_nothing_of_its_former_protection(protected: Path, tmp_path: Path) -> None:
    folder = copied(protected, tmp_path)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    del manifest["encrypted"]
    write_artifact(folder, {"model.onnx": b"model"}, manifest, "card")
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "manifest.json", "model.onnx"]
