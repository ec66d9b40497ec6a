"""Run-length masks: the codec against written-out examples and real files, laws, and refusal of damaged input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from splatseg.core.errors import SplatsegError
from splatseg.masks import MaskSet, mask_source, rle


def blobs(n: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """(n, height, width) bool: random discs, some cut by the image's border."""
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[:height, :width]
    centers = rng.uniform(0, 1, (n, 2)) * [height, width]
    radii = rng.uniform(0.03, 0.4, n) * min(height, width)
    return np.stack([(row - y) ** 2 + (column - x) ** 2 < r * r for (y, x), r in zip(centers, radii, strict=True)])


def test_runs_go_down_columns_and_start_with_zeros():
    mask = torch.tensor([[[0, 1, 1], [1, 1, 0]]], dtype=torch.bool)  # columns 01 11 10
    masks = MaskSet.from_dense(mask)
    assert masks.counts[0].tolist() == [1, 4, 1]
    first_set = MaskSet.from_dense(~mask)
    assert first_set.counts[0].tolist() == [0, 1, 4, 1]


@pytest.mark.parametrize(("value", "counts"), [(False, [12]), (True, [0, 12])], ids=["empty", "full"])
def test_empty_and_full_masks(value, counts):
    masks = MaskSet.from_dense(np.full((1, 3, 4), value))
    assert masks.counts[0].tolist() == counts
    assert masks.areas.tolist() == [12 * value]
    assert bool((masks.dense(0) == value).all())
    assert MaskSet.from_coco(masks.to_coco()).counts[0].tolist() == counts


def test_dense_to_runs_to_string_and_back_keeps_every_pixel():
    dense = np.concatenate([blobs(20, 33, 47), np.random.default_rng(1).random((3, 33, 47)) < 0.5])
    masks = MaskSet.from_dense(dense)
    again = MaskSet.from_coco(json.loads(json.dumps(masks.to_coco())))
    assert torch.equal(again.stack(), torch.from_numpy(dense))
    assert again.areas.tolist() == dense.sum((1, 2)).tolist()
    np.testing.assert_array_equal(MaskSet.from_dense(iter(dense)).areas, masks.areas)


def test_string_of_a_known_mask():
    # By the format: 6 -> '6', 1 -> '1', 40 = 8 + 32 * 1 -> 'X1', 13 as 13 - 1 = 12 -> '<', 20 as 20 - 40 = -20 ->
    # groups 12 | 32 and 31 -> '\\O'.
    assert rle.counts_to_string(np.array([6, 1, 40, 13, 20], np.uint32)) == "61X1<\\O"
    assert rle.string_to_counts("61X1<\\O").tolist() == [6, 1, 40, 13, 20]


def test_string_of_huge_runs_needs_seven_characters():
    counts = np.array([2**31 - 10, 1, 1, 1, 2**31 - 20], np.uint32)
    assert rle.string_to_counts(rle.counts_to_string(counts)).tolist() == counts.tolist()


def test_reads_and_writes_real_annotations_to_the_letter(data_dir: Path):
    annotations = json.loads((data_dir / "dev_kitchen/masks_2d/train_000.json").read_text())
    masks = MaskSet.from_coco(annotations)
    assert masks.areas.tolist() == [a["area"] for a in annotations]
    assert masks.to_coco() == [a["segmentation"] for a in annotations]
    # amg.py gives the distance of the outermost pixels, one less than their number.
    boxes = np.array([a["bbox"] for a in annotations])
    assert (np.abs(masks.boxes()[:, :2] - boxes[:, :2]) == 0).all()
    assert set((masks.boxes()[:, 2:] - boxes[:, 2:]).ravel().tolist()) <= {0, 1}


def test_uncompressed_counts_with_empty_runs_equal_the_compact_ones():
    size = [2, 4]
    loose = MaskSet.from_coco([{"size": size, "counts": [0, 0, 1, 2, 0, 1, 4, 0]}])
    assert loose.counts[0].tolist() == [1, 3, 4]
    filled = MaskSet.from_coco([{"size": size, "counts": [0, 0, 0, 8]}])
    assert filled.counts[0].tolist() == [0, 8]


def test_boxes_equal_those_of_the_dense_masks():
    dense = np.concatenate([blobs(12, 20, 31, seed=3), np.zeros((1, 20, 31), bool), np.ones((1, 20, 31), bool)])
    expected = []
    for mask in dense:
        rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
        box = [columns[0], rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1] if len(rows) else [0, 0, 0, 0]
        expected.append(box)
    assert MaskSet.from_dense(dense).boxes().tolist() == np.array(expected).tolist()


def test_labels_become_one_mask_an_id():
    labels = np.array([[7, 0, 7], [3, 3, 7]])
    masks = MaskSet(2, 3, tuple(rle.encode_labels(labels)))
    assert torch.equal(masks.stack(), torch.from_numpy(np.stack([labels == 3, labels == 7])))
    assert rle.encode_labels(np.zeros((2, 3), int)) == []
    assert rle.encode_labels(np.full((2, 3), 9))[0].tolist() == [0, 6]  # ends at the last pixel


GOOD = {"size": [2, 3], "counts": [1, 4, 1]}


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ({**GOOD, "counts": [1, 4, 2]}, r"mask 1: counts: .* 2 \* 3 = 6, found 7"),
        ({**GOOD, "counts": [7, -1]}, "mask 1: counts: .* >= 0, found -1"),
        ({**GOOD, "counts": [1, 4.5, 0.5]}, "mask 1: counts: expected a COCO string or a list"),
        ({**GOOD, "counts": []}, "mask 1: counts: .* found shape"),
        ({**GOOD, "counts": ""}, "mask 1: counts: .* empty"),
        ({**GOOD, "counts": "1 4"}, "mask 1: counts: .* another character"),
        ({**GOOD, "counts": "14Q"}, "mask 1: counts: .* cut short"),
        ({**GOOD, "counts": "ooooooooo0"}, "mask 1: counts: .* at most 7"),
        ({**GOOD, "size": [3, 2]}, r"mask 1: size: expected \[2, 3\] as the first mask, found \[3, 2\]"),
        ({**GOOD, "size": "2x3"}, "mask 1: size: "),
        ({"counts": [6]}, "mask 1: segmentation: "),
        ({"segmentation": [[0, 0, 1, 1]]}, "mask 1: segmentation: "),
        (3, "mask 1: expected a COCO dict, found int"),
    ],
)
def test_malformed_annotations_are_refused_by_name(annotation, message):
    with pytest.raises(SplatsegError, match=message):
        MaskSet.from_coco([GOOD, annotation])


def test_no_masks_have_a_size_only_where_it_is_given():
    assert len(MaskSet.empty(4, 5)) == 0 and MaskSet.empty(4, 5).stack().shape == (0, 4, 5)
    assert len(MaskSet.from_dense(np.zeros((0, 4, 5)))) == 0
    for make in (lambda: MaskSet.from_coco([]), lambda: MaskSet.from_dense([]), lambda: MaskSet(0, 5, ())):
        with pytest.raises(SplatsegError):
            make()


def test_mixed_sizes_are_refused():
    with pytest.raises(SplatsegError, match=r"mask 1: expected shape \(2, 3\), found \(3, 2\)"):
        MaskSet.from_dense([np.zeros((2, 3)), np.zeros((3, 2))])


def test_unknown_source_is_refused(tmp_path: Path):
    with pytest.raises(SplatsegError, match=r"'watershed', 'sam' or a folder of masks, found '.*nowhere'"):
        mask_source(tmp_path / "nowhere")


def decode_as_coco(text: str, height: int, width: int) -> np.ndarray:
    """(height, width) bool of a compressed string, one character and one run at a time, after COCO's format."""
    counts: list[int] = []
    at = 0
    while at < len(text):
        value, shift, more = 0, 0, True
        while more:
            bits = ord(text[at]) - 48
            value |= (bits & 31) << shift
            more, shift, at = bool(bits & 32), shift + 5, at + 1
            if not more and bits & 16:
                value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
    flat = [bool(i % 2) for i, count in enumerate(counts) for _ in range(count)]
    return np.array(flat).reshape(width, height).T


def test_strings_are_read_by_others():
    """By a plain decoder of the format and, where it is installed, by pycocotools itself."""
    dense = np.concatenate([blobs(6, 37, 53, seed=4), np.zeros((1, 37, 53), bool), np.ones((1, 37, 53), bool)])
    records = json.loads(json.dumps(MaskSet.from_dense(dense).to_coco()))
    for record, mask in zip(records, dense, strict=True):
        assert record["size"] == [37, 53]
        assert (decode_as_coco(record["counts"], 37, 53) == mask).all()
    try:
        from pycocotools import mask as coco
    except ImportError:
        return
    assert (coco.decode(records).transpose(2, 0, 1).astype(bool) == dense).all()
    assert [coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode() for mask in dense] == [
        record["counts"] for record in records
    ]
