"""The spec that comes with a simulated log: everything `recmtl train` needs."""

from __future__ import annotations

__all__ = ["FUNNEL_SPEC"]

FUNNEL_SPEC = """\
# A simulated click funnel. The columns p_ctr, p_cvr and conversion_potential hold the truth:
# never make features of them.
name: funnel
data:
  train: train.parquet
  valid: valid.parquet
  group_by: user_id
  segments: [device]
  keep: [user_id, item_id]
features:
  - {name: user_id,  type: sparse, vocab: {min_count: 2}, dim: 16}
  - {name: item_id,  type: sparse, vocab: {min_count: 2}, dim: 16}
  - {name: age,      type: sparse, buckets: [25, 35, 45, 55, 65], dim: 8}
  - {name: gender,   type: sparse, vocab: {}, dim: 4}
  - {name: device,   type: sparse, vocab: {}, dim: 4}
  - {name: hour,     type: sparse, vocab: {}, dim: 8}
  - {name: category, type: sparse, vocab: {}, dim: 16}
  - {name: brand,    type: sparse, vocab: {min_count: 2}, dim: 8}
  - {name: price,    type: dense, transform: log1p, normalize: standard, fill: 0.0}
  - {name: history,  type: sequence, table: item_id, max_len: 20, behaviour: click}
tasks:
  - {name: ctr,   label: click}
  - {name: cvr,   label: conversion, given: click}
  - {name: ctcvr, label: conversion, product_of: [ctr, cvr]}
objective: tasks
tower: {kind: mmoe, num_experts: 4, expert_widths: [128, 64], head_widths: [32], dropout: 0.2}
wide: fwfm
train:
  batch_size: 4096
  epochs: 6
  lr: 0.003
  embedding: {optimizer: rowwise_adagrad, lr: 0.1, prior: 50.0}
  monitor: ctr/auc
  seed: 0
"""
