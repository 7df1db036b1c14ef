from __future__ import annotations

import json

import pytest

from anyarch import imagetools
from anyarch.errors import ManifestNotFound, UsageError
from anyarch.imagetools.render import tabulate
from anyarch.spec import media
from anyarch.spec.digest import Digest
from anyarch.spec.oci import Blob, Descriptor, Index, Manifest, PlatformSpec, decode, encode

from .conftest import add_multi


def shown(client, name, template=""):
    return imagetools.describe(name, template, registry=client)


def test_a_single_image_shows_name_type_and_digest(client, fake):
    blob = fake.add_image("lib/app", "latest")
    assert shown(client, f"{fake.address}/lib/app") == (
        f"Name:      {fake.address}/lib/app:latest\n"
        f"MediaType: {media.OCI_MANIFEST}\n"
        f"Digest:    {blob.digest}\n"
    )
    assert fake.count() == 1


def test_an_index_shows_its_manifests(client, fake):
    blob = add_multi(fake)
    amd64, arm = decode(Index, blob.raw).manifests
    name = f"{fake.address}/lib/app:1"
    assert shown(client, name) == (
        f"Name:      {name}\n"
        f"MediaType: {media.OCI_INDEX}\n"
        f"Digest:    {blob.digest}\n"
        "           \n"
        "Manifests: \n"
        f"  Name:      {name}@{amd64.digest}\n"
        f"  MediaType: {media.OCI_MANIFEST}\n"
        "  Platform:  linux/amd64\n"
        "             \n"
        f"  Name:      {name}@{arm.digest}\n"
        f"  MediaType: {media.OCI_MANIFEST}\n"
        "  Platform:  linux/arm/v7\n"
    )
    assert fake.count() == 1


def test_annotations_and_os_versions_are_shown(client, fake):
    digest = Digest.of(b"x")
    entry = Descriptor(
        media.OCI_MANIFEST,
        digest,
        1,
        annotations={"b": "2", "a": "1"},
        platform=PlatformSpec("amd64", "windows", "10.0.1", ("win32k", "x")),
    )
    fake.add_index("lib/app", "1", [entry, Descriptor(media.OCI_MANIFEST, digest, 1)])
    name = f"{fake.address}/lib/app:1"
    assert shown(client, name).split("Manifests: \n")[1] == (
        f"  Name:        {name}@{digest}\n"
        f"  MediaType:   {media.OCI_MANIFEST}\n"
        "  Platform:    windows/amd64\n"
        "  OSVersion:   10.0.1\n"
        "  OSFeatures:  win32k, x\n"
        "  Annotations: \n"
        "    a: 1\n"
        "    b: 2\n"
        "             \n"
        f"  Name:      {name}@{digest}\n"
        f"  MediaType: {media.OCI_MANIFEST}\n"
    )


@pytest.mark.parametrize("template", ["{{.Manifest}}", "  {{ .Manifest }}\n"])
def test_the_whole_manifest_as_template_is_the_text(client, fake, template):
    add_multi(fake)
    name = f"{fake.address}/lib/app:1"
    assert shown(client, name, template) == shown(client, name)


def test_raw_gives_the_exact_bytes(client, fake):
    raw = b'{ "schemaVersion": 2,\n  "manifests": [] }'
    fake.add_manifest("lib/app", Blob.of(media.OCI_INDEX, raw), tag="1")
    assert imagetools.raw(f"{fake.address}/lib/app:1", registry=client) == raw


def test_json_of_a_single_image(client, fake):
    config = (
        b'{"history":[{"created_by":"RUN a && b > c","empty_layer":true}],'
        b'"os":"linux","architecture":"arm64",'
        b'"config":{"Env":["A=1"],"Cmd":null,"User":"","OnBuild":["RUN x"]},'
        b'"rootfs":{"type":"layers","diff_ids":[]},"docker_version":"1"}'
    )
    digest = fake.add_blob("lib/app", config)
    document = Manifest(
        schema_version=2,
        media_type=media.OCI_MANIFEST,
        config=Descriptor(media.OCI_CONFIG, digest, len(config)),
        layers=(),
    )
    blob = Blob.of(media.OCI_MANIFEST, encode(document))
    fake.add_manifest("lib/app", blob, tag="1")
    given = f"{fake.address}/lib/app:1"
    text = shown(client, given, "{{json .Image}}")
    assert text == (
        "{\n"
        '  "architecture": "arm64",\n'
        '  "os": "linux",\n'
        '  "config": {\n'
        '    "Env": [\n'
        '      "A=1"\n'
        "    ],\n"
        '    "OnBuild": [\n'
        '      "RUN x"\n'
        "    ]\n"
        "  },\n"
        '  "rootfs": {\n'
        '    "type": "layers",\n'
        '    "diff_ids": []\n'
        "  },\n"
        '  "history": [\n'
        "    {\n"
        '      "created_by": "RUN a \\u0026\\u0026 b \\u003e c",\n'
        '      "empty_layer": true\n'
        "    }\n"
        "  ]\n"
        "}\n"
    )
    whole = json.loads(shown(client, given, "json"))
    assert list(whole) == ["name", "manifest", "image"]
    assert whole["name"] == given
    assert whole["manifest"] == {
        "mediaType": media.OCI_MANIFEST,
        "digest": blob.digest,
        "size": len(blob.raw),
    }
    assert whole["image"] == json.loads(text)
    assert json.loads(shown(client, given, "{{json .}}")) == whole


def test_json_of_an_index(client, fake):
    blob = add_multi(fake)
    name = f"{fake.address}/lib/app:1"
    manifest = json.loads(shown(client, name, "{{json .Manifest}}"))
    assert list(manifest) == ["schemaVersion", "mediaType", "digest", "size", "manifests"]
    assert manifest["digest"] == blob.digest
    assert manifest["size"] == len(blob.raw)
    assert list(manifest["manifests"][1]) == ["mediaType", "digest", "size", "platform"]
    assert list(manifest["manifests"][1]["platform"].items()) == [
        ("architecture", "arm"),
        ("os", "linux"),
        ("variant", "v7"),
    ]
    images = json.loads(shown(client, name, "{{json .Image}}"))
    assert list(images) == ["linux/amd64", "linux/arm/v7"]
    assert images["linux/arm/v7"]["variant"] == "v7"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{.Name}}", "NAME"),
        ("{{.Manifest.Digest}}", "DIGEST"),
        ("{{.Manifest.MediaType}} {{ .Manifest.SchemaVersion }}", f"{media.OCI_INDEX} 2"),
        ('{{(index .Image "linux/arm/v7").Architecture}}', "arm"),
        ('{{json (index .Image "linux/arm/v7").Variant}}', '"v7"'),
        (
            "{{range .Manifest.Manifests}}{{.Platform.OS}}/{{.Platform.Architecture}} {{end}}",
            "linux/amd64 linux/arm ",
        ),
        (
            "{{range $p, $i := .Image}}{{$p}}={{$i.Architecture}};{{end}}",
            "linux/amd64=amd64;linux/arm/v7=arm;",
        ),
        ("{{if eq .Manifest.SchemaVersion 2}}two{{else}}other{{end}}", "two"),
        ("{{if .Manifest.Annotations}}a{{else if .Name}}b{{else}}c{{end}}", "b"),
        ("{{len .Manifest.Manifests}}", "2"),
        ('{{printf "%s has %d" .Name (len .Manifest.Manifests)}}', "NAME has 2"),
        ("{{ .Manifest.Digest | json }}", '"DIGEST"'),
        ("a {{- .Name -}} b", "aNAMEb"),
        ("{{/* nothing */}}x", "x"),
        ("{{(.Manifest).Size}} {{len (.Name)}}", "SIZE LENGTH"),
        ("{{$m := .Manifest}}{{$m.Size}}", "SIZE"),
        ("{{with .Manifest}}{{.Size}}{{end}}", "SIZE"),
        ("{{(index .Manifest.Manifests 0).Platform.Variant}}", "<no value>"),
        ("{{json .SBOM}}", "{}"),
        ("no action", "no action"),
    ],
)
def test_templates(client, fake, template, expected):
    blob = add_multi(fake)
    name = f"{fake.address}/lib/app:1"
    for word, value in (
        ("NAME", name),
        ("DIGEST", blob.digest),
        ("SIZE", str(len(blob.raw))),
        ("LENGTH", str(len(name))),
    ):
        expected = expected.replace(word, value)
    assert shown(client, name, template) == expected + "\n"


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("{{.Nme}}", "no field .Nme"),
        ("{{json .", "unclosed action"),
        ("{{jsn .}}", "function 'jsn' not defined"),
        ("{{end}}", "unexpected {{end}}"),
        ("{{if .Name}}", "{{end}} is missing"),
        ("{{json}}", "wrong number of arguments for json"),
        ("{{(.Name}}", "unclosed parenthesis"),
        ("{{.Name.First}}", "no field .First in a text"),
        ("{{index .Manifest.Manifests 9}}", "index out of range: 9"),
        ("{{$x}}", "undefined variable"),
        ("{{range .Name}}{{end}}", "range needs a list or a map"),
        ("{{}}", "an expression is missing"),
        ("{{.Name | .Name}}", "cannot be piped to"),
        ("{{len 3}}", "len cannot be used"),
        ("{{ ~ }}", "is not understood"),
    ],
)
def test_a_template_that_cannot_be_used_says_why(client, fake, template, complaint):
    add_multi(fake)
    with pytest.raises(UsageError) as caught:
        shown(client, f"{fake.address}/lib/app:1", template)
    assert complaint in caught.value.message
    assert caught.value.hint


def test_attestations_are_found_and_are_no_images(client, fake):
    add_multi(fake, attested=True)
    name = f"{fake.address}/lib/app:1"
    assert json.loads(shown(client, name, "{{json .Provenance}}")) == {
        "linux/amd64": {"SLSA": {"buildType": "https://mobyproject.org/buildkit@v1"}}
    }
    assert shown(client, name, '{{(index .SBOM "linux/amd64").SPDX.SPDXID}}') == "SPDXRef-DOCUMENT\n"
    with imagetools.inspect(name, registry=client) as tree:
        assert list(tree.images()) == ["linux/amd64", "linux/arm/v7"]
        assert len(tree.images()["linux/amd64"].attestations) == 1


def test_an_image_without_platform_in_the_index_gets_that_of_its_config(client, fake):
    image = fake.add_image("lib/app", None, architecture="riscv64")
    fake.add_index("lib/app", "1", [image.descriptor()])
    with imagetools.inspect(f"{fake.address}/lib/app:1", registry=client) as tree:
        assert list(tree.images()) == ["linux/riscv64"]


def test_a_missing_image_is_not_found(client, fake):
    with pytest.raises(ManifestNotFound, match="not found"):
        shown(client, f"{fake.address}/lib/none:1")


def test_without_a_client_the_users_settings_count(fake, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("ANYARCH_REGISTRY_MIRRORS", f"no-such.example={fake.address}")
    blob = fake.add_image("lib/app", "latest")
    assert blob.digest in imagetools.describe("no-such.example/lib/app")


def test_columns_are_as_wide_as_their_widest_cell():
    assert tabulate([("a", "b"), ("long", ""), ("", "")]) == "a    b\nlong \n     \n"


def test_the_tree_shows_sizes_and_what_platforms_share(fake, client):
    add_multi(fake, attested=True)
    text = imagetools.show_tree(f"{fake.address}/lib/app:1", lambda size: f"<{size}>", registry=client)
    lines = text.splitlines()
    assert lines[2] == "2 platforms, <5> of layers, <5> shared between platforms (<10> without sharing)"
    assert [line.split()[1] for line in lines if line.startswith(("├── ", "└── "))] == [
        "linux/amd64",
        "linux/arm/v7",
    ]
    assert sum("shared by 2 platforms" in line for line in lines) == 2
    assert sum("attestation" in line for line in lines) == 2
    assert "https://spdx.dev/Document" in text


def test_the_documents_of_an_index_are_asked_for_once(fake, client):
    add_multi(fake, attested=True)
    imagetools.describe(f"{fake.address}/lib/app:1", "json", registry=client)
    assert fake.count("GET", "/manifests/") == 4
