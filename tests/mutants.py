"""What the tests are worth: faults of one line each, put into the package one by one, which some test should notice.

python -m tests.mutants [--jobs N] [--only SUBSTRING] [--check]

A test that no fault makes fail tests nothing, and a fault that no test notices is one that could be there. Each row
names a file, a text that is in it once, what takes its place, and the test files that should fail then. A mutant that
survives asks for a test; a row whose text is not there any more asks for another text. It is part of no other command,
because it takes hours: run it after a change of the tests, with --only for the rows of a file.

Every job has a copy of the tree, so nothing here is touched. Tests that are heavy are left out, and the others are run
without a mutant first: what fails then shows nothing. The exit status is 1 if less than 95 % of the mutants die, or if
a row cannot be applied.
"""

import argparse
import concurrent.futures
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
ENOUGH = 0.95
LIMIT = 1800  # seconds for the tests of a mutant
FAILED = (1, 2)  # pytest: a test failed, or a test file could not be imported


class Mutant(NamedTuple):
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.file}: {self.old!r} -> {self.new!r}"


# File, then (text, what takes its place, the tests that should fail: names of files in tests/ without test_).
TABLE: dict[str, list[tuple[str, str, str]]] = {
    "training/step.py": [
        ("jnp.minimum(ema, (1 + state.step)", "jnp.minimum(0.999, (1 + state.step)", "wiring"),
        ("(10 + state.step)", "(9 + state.step)", "step"),
        ("(1 - keep) * (new - old)", "keep * (new - old)", "step"),
        ("lambda x: x / count", "lambda x: x", "step"),
        ("(level * BINS, BINS - 1)", "(level * BINS, BINS)", "updates"),
        ("return loss @ inside", "return jnp.ones_like(loss) @ inside", "step"),
        ("optax.tree.norm(grads)", "optax.tree.norm(updates)", "updates"),
        ("jax.random.fold_in(root, state.step)", "root", "updates"),
        ("level[rows] for", "level[rows[::-1]] for", "step"),
        ("total(losses, uncertainty(params, t))", "total(losses)", "wiring"),
        ("across((jnp.mean(total(losses)), grads))", "across(jnp.mean(total(losses))), grads", "step"),
        ("by_level = across({", "by_level = (lambda x: x)({", "updates"),
    ],
    "training/optimizer.py": [
        ("b1=b1, b2=b2,", "b1=b2, b2=b1,", "optimizer"),
        ("(count + 1) / max(warmup, 1)", "count / max(warmup, 1)", "optimizer"),
        ("max(warmup, steps - decay_steps)", "warmup", "optimizer"),
        ("max(steps - warmup, 1)", "max(steps, 1)", "optimizer"),
        ("clip_by_global_norm(clip)", "clip_by_global_norm(1.0)", "optimizer"),
        ("linear_schedule(rate, 0.0, steps)", "linear_schedule(rate, 0.1 * rate, steps)", "optimizer"),
        ("adam_b1=b1,", "", "optimizer"),
        ("adam_b2=b2,", "", "optimizer"),
        ("consistent_rms=0.2", "consistent_rms=None", "optimizer"),
        ('"blocks/" in name and', "", "optimizer"),
        ('in ("kernel", "embedding")', 'in ("kernel", "embedding", "modulation")', "optimizer"),
        ('in ("kernel", "embedding")', 'in ("kernel",)', "optimizer"),
        ("mask=decays", "mask=None", "optimizer"),
        ('constrain(x, "fsdp") if', "x if", "partitioning"),
        ("(rate, b1, b2, weight_decay)", "(rate, b1, b2, 0.0)", "optimizer"),
    ],
    "training/loop.py": [
        ("run.train.seed, run.data.augment, run.streams", "0, run.data.augment, run.streams", "wiring"),
        ("run.train.seed, run.data.augment, run.streams", 'run.train.seed, "none", run.streams', "wiring"),
        ("run.streams, run.data.unreadable)", "run.streams)", "wiring"),
        ("training_keys(run.train.seed, apart)", "training_keys(0, apart)", "wiring"),
        ("rows, run.data.threads)", "rows)", "wiring"),
        ("pipeline.batches(examples, training.position,", "pipeline.batches(examples, 0,", "configs"),
        ("step % run.train.log_every == 0", "step % 50 == 0", "wiring"),
        ("step % run.checkpoint.every == 0", "step % 1000 == 0", "wiring"),
        ("training.saved == 0 and any(", "any(", "loop"),
        ("    reporter.before_first_step()\n", "", "loop"),
        ("(workdir, run.checkpoint.keep)", "(workdir, 2)", "wiring"),
        ("plain(training.state).ema, self.mesh", "plain(training.state).params, self.mesh", "wiring"),
        ("run.train.seed, apart)", "run.train.seed)", "old_checkpoints"),
        ('with self.meter.paused("drawing"):\n            drawn', "if True:\n            drawn", "loop"),
        ("meter.in_a_row >= run.train.patience", "False", "divergence"),
        ('{"data_position": self.position}', "{}", "divergence"),
        ("writer.rewind(training.step)", "pass", "divergence"),
        ("if self.saved != self.step:", "if True:", "stopping loop"),
    ],
    "training/update.py": [
        ("ema=run.train.ema", "ema=0.999", "wiring"),
        ("objective=OBJECTIVES[run.train.objective],", "", "wiring"),
        ("joint_levels=JOINT_LEVELS[run.train.levels],", "", "wiring"),
        ("        accumulation=run.train.accumulation,\n", "", "wiring"),
        ('lambda params, t: run.model.apply(params, t, method="uncertainty")', "lambda params, t: {}", "wiring"),
        ('domain(key, "init"), domain(key, "train")', "jax.random.split(key)", "keys"),
    ],
    "training/placement.py": [
        ("if size % mesh.shape[axis]:", "if False:", "config"),
    ],
    "planning/hlo.py": [
        ("        if channel[1] in seen:\n            return None\n", "", "planning"),
        ("size *= len(group)", "size *= 2", "planning"),
        ("limits, default=1) // _stride(condition, body)", "limits, default=1)", "planning"),
    ],
    "planning/roofline.py": [
        ("rounds = 2 if", "rounds = 1 if", "planning"),
        ("* (count - 1) / count", "", "planning"),
    ],
    "planning/estimate.py": [
        ("2 * times * split", "times * split", "planning"),
        ("(saved(2 * FEW) - saved(FEW))", "saved(FEW)", "planning"),
    ],
    "training/checkpoint.py": [
        ('np.int32(meta["step"])', "np.int32(0)", "checkpoint"),
        ("x[rows], x.sharding", "x, x.sharding", "old_checkpoints"),
        ('.get("keys_apart", False)', '.get("keys_apart", True)', "old_checkpoints"),
        ('or ("digest" in meta and meta["digest"] != digest(meta))', "", "checkpoint"),
        ("if str(step) != path.name:", "if False:", "checkpoint"),
        ("if recorded.get(leaf, value) != value:", "if False:", "checkpoint"),
        ("    if found.not_finite:\n", "    if False:\n", "checkpoint"),
        ("        if was != now:\n", "        if False:\n", "checkpoint"),
        ("read, set_aside=True)", "read)", "checkpoint"),
        ("path.name) and path.is_dir())", "path.name))", "checkpoint"),
        ('"0|[1-9][0-9]*", path.name)', '"[0-9]+", path.name)', "checkpoint"),
        ('if changed == "refuse":', "if False:", "checkpoint"),
        ("if path.exists():", "if True:", "checkpoint"),
        ("return read(load(directory / str(step)))", "return read(load(directory / str(there[-1])))", "checkpoint"),
    ],
    "training/saving.py": [
        ('"data_position": step,', '"data_position": step + 1,', "checkpoint"),
        ("{name: getattr(state, name) for name in ARRAYS}", "dict.fromkeys(ARRAYS, state.params)", "checkpoint"),
        ("[: -self._keep]", "[:-2]", "checkpoint"),
        ("self._read_back(step)", "pass", "checkpoint"),
        ("            put_aside(error)\n", "", "checkpoint"),
        ("        if found.not_finite:", "        if False:", "checkpoint"),
        ("        if step == self.newest:\n            return\n", "", "checkpoint"),
        ("shutil.rmtree(directory_of(self._workdir) / REMOVED, ignore_errors=True)", "pass", "checkpoint"),
    ],
    "training/fingerprint.py": [
        ("along * np.uint32(stride % 2**32)", "along", "fingerprint"),
        ("words + place * np.uint32(0x9E3779B9)", "words", "fingerprint"),
        ("4: jnp.uint32, 8: jnp.uint32", "4: jnp.uint32, 8: jnp.uint64", "fingerprint"),
        ("x = jnp.stack([x.real, x.imag])", "x = x.real", "fingerprint"),
        ("jnp.all(jnp.isfinite(x))", "jnp.any(jnp.isfinite(x))", "fingerprint"),
    ],
    "training/changes.py": [
        ('{**was, **now} if key == "streams" else was', "was", "changes checkpoint"),
        ('("model.dtype", "model.remat", "model.unroll")', '("model.dtype", "model.remat")', "changes"),
        ('key == "optimizer.name" or ', "", "changes"),
        ("return meaning(was, table) == meaning(now, table)", "return False", "changes"),
        ('"holdout" in was.get("data", {})', "True", "changes folder"),
    ],
    "data/folder.py": [
        ('entry.name.startswith(".")', 'entry.name.startswith("._")', "folder"),
        ("sorted(folders, key=natural)", "sorted(folders)", "folder"),
        ("entry.is_symlink() and Path(entry).resolve() in above", "False", "folder"),
        ("if place < share}", "if place < share / 2}", "folder"),
        (" - {*keeps.values()}", "", "folder"),
        ("else test._replace(classes=train.classes)", "else test", "folder"),
        ("hashlib.sha256(name.encode())", "hashlib.sha256(f'{names}{name}'.encode())", "folder"),
    ],
    "data/identity.py": [
        ("held_out if share else ()", "held_out", "identity"),
        ("else i == j", "else True", "identity"),
        ("new = [other for other in new if other not in same[:1]]", "pass", "identity"),
        ('"version": str(info.version),', "", "identity"),
        ('item[0] != "label"', 'item[0] == "label"', "data"),
        ("sorted(names)", "names", "identity"),
    ],
    "training/flops.py": [("3 * run.data.batch_size", "2 * run.data.batch_size", "loop")],
    "training/metrics.py": [
        ("timed / seconds * self._batch_size", "timed / seconds", "metrics"),
        ("len(fetched) - self._untimed", "len(fetched)", "metrics"),
        ("float(sums[i] / counts[i])", "float(sums[i] / len(counts))", "metrics"),
        ("self._since += time.monotonic() - begin", "pass", "metrics"),
    ],
    "parallel/hosts.py": [
        ("if spec in", "if not spec and spec in", "hosts"),
        ("all(variable in environment for variable in rest)", "True", "hosts"),
        ("if len(there) == len(variables):", "if there:", "hosts"),
        ("if index == 0 else {}", "if index else {}", "hosts"),
        ("for key in {**first, **other}:", "for key in first:", "hosts"),
        ("package.rglob", "package.glob", "hosts"),
    ],
    "parallel/modes.py": [
        ("jax.process_index() * share :", "0 * share :", "loop"),
    ],
    "parallel/mesh.py": [
        ('(None, "fsdp", "tensor")', '(None, "tensor", "fsdp")', "mesh"),
        ('(None, "tensor", "fsdp")', '(None, "fsdp", "tensor")', "mesh"),
        ('kernel$", ("fsdp", "tensor")', 'kernel$", (None, "tensor")', "mesh"),
        ('(kernel|embedding)$", (None, "fsdp")', '(kernel|embedding)$", ("fsdp", "tensor")', "mesh"),
        ("jax.lax.with_sharding_constraint(x, P(*axes))", "x", "partitioning"),
        ("if shares[axis] > most:", "if shares[axis] > 2:", "mesh"),
        ("parts % n == 0 and", "", "mesh"),
        ('ROWS = ("data", "fsdp")', 'ROWS = ("data",)', "updates"),
        ('mesh.shape["data"] * mesh.shape["fsdp"]', 'mesh.shape["data"]', "updates draw"),
    ],
    "streams/label.py": [
        ("nn.Embed(classes + 1,", "nn.Embed(classes,", "streams"),
        ("levels=dropout(rate=dropout_rate)", "levels=dropout()", "wiring"),
        ("np.arange(classes, dtype=np.int32)", "np.arange(classes, dtype=np.int32)[::-1]", "streams"),
        ("if names_are_others or not", "if not", "streams"),
        ("[text] if text in names else [word", "[word", "streams"),
    ],
    "streams/text.py": [
        ("[len(tokens[0])] * left", "[0] * left", "text"),
        ("nn.Embed(tokens + 1,", "nn.Embed(tokens,", "text wiring"),
        ("groups=blocks,", "", "wiring"),
        ("said.removeprefix(codecs.BOM_UTF8)", "said", "given_files"),
    ],
    "streams/past.py": [("dropout(rate=0.0)", "dropout(rate=0.1)", "blocks")],
    "streams/duration.py": [("begun = -(-values", "begun = (values", "duration")],
    "streams/span.py": [
        ("spans(rate=rate)", "spans()", "wiring"),
        ("(x[:, None])", "(0 * x[:, None])", "streams"),
    ],
    "streams/video.py": [
        ("groups=grid[0]", "groups=shape[0]", "video"),
        ("np.roll(frame, turn,", "np.roll(frame, -turn,", "video"),
    ],
    "media/image.py": [
        ("times * height)", "height)", "draw"),
        ("+ 1) * 127.5 + 0.5", "+ 1) * 127.5", "streams"),
        ("if image.has_transparency_data:", "if False:", "media"),
        ("return ImageOps.exif_transpose(image)", "return image", "media"),
        ("grey = levels / white * 255", "grey = np.floor(levels / white * 255)", "media"),
        ("np.clip(pixels, 0, 255)", "pixels", "media"),
        ("image.width * image.height > LARGEST", "False", "media"),
    ],
    "media/clip.py": [
        (" and counts.sum() != length", "", "media"),
        ("        counts[-1] = 1", "        pass", "media"),
        ("            next(frames)", "            pass", "media"),
    ],
    "media/paths.py": [
        ("range(len(words), 0, -1)", "range(1, len(words) + 1)", "given_files"),
        ("os.path.expanduser(name)", "name", "given_files"),
    ],
    "media/sound.py": [
        ("size = left - left % each", "size = left", "audio"),
        ("if left < size:", "if False:", "audio"),
        ("(loudest[:-1] > most) & ", "", "audio"),
        ("at += size + size % 2", "at += size", "audio"),
    ],
    "media/spectrum.py": [
        ("jnp.roll(runs, -1, 1)", "jnp.roll(runs, 1, 1)", "audio"),
        ("np.where(np.arange(hop + 1) % hop == 0, 1, 2)", "2", "audio"),
    ],
    "diffusion/gaussian.py": [
        ("return -sigma, alpha", "return sigma, alpha", "gaussian"),
        ("(alpha * prediction - p * z) / det", "(alpha * prediction + p * z) / det", "gaussian"),
        ("1 / self.clamp", "self.clamp", "gaussian objective"),
        ("jnp.where(t > 0, gain, 0.0)", "gain", "gaussian"),
        ("return 1000.0 * t - 1", "return 1000.0 * t", "gaussian"),
    ],
    "diffusion/ddpm.py": [
        ("f * jnp.log(beta) + (1 - f)", "(1 - f) * jnp.log(beta) + f", "ddpm"),
        ("return ratio ** _fraction(prediction)", "return jnp.ones_like(ratio)", "ddpm"),
    ],
    "diffusion/masked.py": [
        ("weight = hidden / jnp.maximum(align(t, target), 1e-6)", "weight = hidden", "masked"),
        ("(rng.fold(keys, 1), logits)", "(rng.fold(keys, 0), logits)", "masked"),
        ("1e-6), 1 - sigma)", "1e-6), sigma)", "masked"),
        ("rank < count - left", "rank < left", "masked"),
        ("lot - sure, jnp.inf", "lot + sure, jnp.inf", "masked"),
        (", 1, length + 1)", ", 1, length)", "masked"),
    ],
    "diffusion/keys.py": [
        ("zlib.crc32(name.encode()) & 0x7FFFFFFF", "0", "levels objective"),
        ("in_axes=(None, 0))(key, rows)", "in_axes=(None, 0))(key, 0 * rows)", "objective"),
        ("| 1 << 31", "", "keys"),
    ],
    "diffusion/levels.py": [
        ("(1 - t) / shift)", "(1 - t) * shift)", "levels"),
        ("sigmoid(mean + std *", "sigmoid(mean - std *", "levels"),
        ("u >= 1 - rate", "u >= rate", "levels"),
        ("jnp.floor(u * count) + 1, count)", "jnp.floor(u * count), count)", "levels ddpm"),
        ("u - (1 - rate), 0.0) / max(rate, 1e-9)", "u - (1 - rate), 0.0)", "levels meanflow"),
        ("level_at(schedule, -(mean + std", "level_at(schedule, (mean + std", "levels"),
        ("(jax.random.permutation(order, n) + u)", "(jnp.arange(n) + u)", "levels"),
    ],
    "diffusion/joint_levels.py": [
        ("kind < 0.75", "kind < 0.5", "levels"),
        ("kind < until_clean", "kind > until_clean", "levels"),
        ("kind > until_drawn", "kind < until_drawn", "levels"),
        ("n) < tied\n", "n) > tied\n", "levels"),
        (
            "stratified(key, n * groups).reshape(n, groups)",
            "jnp.repeat(stratified(key, n)[:, None], groups, 1)",
            "blocks",
        ),
    ],
    "diffusion/process.py": [
        ("np.linspace(1, 0, steps + 1)", "np.linspace(1, 0, steps)", "process"),
        ("return jnp.zeros_like(t)", "return jnp.zeros(())", "process"),
    ],
    "diffusion/stream.py": [
        ("or not self.process.in_data:", "or False:", "streams"),
        ("or self.past_of or", "or", "streams"),
        ("fold(keys, stream_id(name))", "keys", "objective updates"),
        ("if s.process.in_data and not s.past_of", "if not s.past_of", "meanflow wiring"),
        ("stream.process.check(x[name], masks)", "stream.process.check(x[name], True)", "sampler objective"),
        ("if array.shape[0] != count:", "if False:", "calls"),
        ("if not jnp.issubdtype(array.dtype, kind):", "if False:", "calls"),
        ("if not masks and stream.most < math.inf", "if False and stream.most < math.inf", "calls"),
        ("or tokens % max(math.prod(shape[1:]), 1)", "", "calls"),
    ],
    "diffusion/meanflow.py": [
        ("u + align(span, z) *", "u - align(span, z) *", "meanflow"),
        ('own = tangent == "own"', 'own = tangent != "own"', "meanflow"),
        ("span = t[SPAN] * t[name]", "span = t[SPAN]", "meanflow"),
        ("divided + jax.lax.stop_gradient(loss - divided)", "divided", "meanflow"),
        ("jnp.where(drop > 0, drop *", "jnp.where(drop > 0, 0 *", "meanflow"),
    ],
    "diffusion/schedules.py": [
        ("reach * (2 - t)", "reach * (1 - t)", "schedules"),
        ("80 * t**7", "80 * t**6", "schedules"),
        (") > wanted", ") < wanted", "schedules"),
        ("x.shape[1] // t.shape[1], axis=1", "1, axis=1", "schedules dit"),
    ],
    "diffusion/objective.py": [
        ("jnp.exp(-u[k]) * loss + u[k]", "jnp.exp(-u[k]) * loss - u[k]", "objective"),
        ('domain(key, "train")', "key", "keys"),
    ],
    "diffusion/guidance.py": [
        ("return strong + w * (strong - weak)", "return strong + w * (weak - strong)", "guidance"),
        ("(low <= level) & (level <= high)", "(low < level) & (level < high)", "guidance"),
        ("(parallel - 1)", "(parallel + 1)", "guidance"),
        (") > 1 - hold", ") > hold", "guidance"),
        ("wanted / jnp.maximum(found, TINY)", "found / jnp.maximum(wanted, TINY)", "guidance"),
        ("jnp.where(t[name] == 0, 1.0, t[name])", "t[name]", "guidance"),
        ("z = z[..., : channels or None]", "z = z", "guidance"),
        ("prior, [name])) for", "prior, list(prior))) for", "guidance"),
        ("own - 1 for name", "own for name", "guidance"),
    ],
    "diffusion/grids.py": [
        ("< prefix[name], 0.0", "<= prefix[name], 0.0", "grids sampler video"),
        ("levels[0] = 1.0", "pass", "grids"),
        ("np.linspace(1, 0.04, steps), 0.0", "np.linspace(1, 0.05, steps), 0.0", "grids"),
        ("(np.round(np.linspace(999, 0, steps)) + 1)", "np.round(np.linspace(999, 0, steps))", "grids"),
        (
            "np.minimum(shifted(stream.process.level_row(grid, steps), shift), ",
            "np.minimum(stream.process.level_row(grid, steps), ",
            "grids wiring",
        ),
    ],
    "diffusion/exponential.py": [
        ("1 - decay ** (2 * eta**2)", "1 - decay ** (eta**2)", "solvers"),
        ("linear = h - flat / a", "linear = h - flat", "solvers"),
        ("square = h**2 - 2 / a * linear", "square = h**2 - linear", "solvers"),
        ("(jnp.isinf(second_lag) | always), again, z)", "(jnp.isinf(second_lag) | always), z, z)", "solvers"),
        ("(jnp.isinf(second_lag) | always)", "True", "solvers"),
        ("stay(z, moved), jax", "moved, jax", "sampler"),
    ],
    "diffusion/solvers.py": [
        ("step, is_stochastic=True)", "step)", "draw"),
        ("is_stochastic=churn > 0", "is_stochastic=False", "draw"),
        ("length = align(s - t, z)", "length = align(t - s, z)", "solvers"),
        ("jnp.where(length == 0, z, z + length * slope)", "z + length * slope", "solvers"),
        ("- jnp.log(1 + churn)", "+ jnp.log(1 + churn)", "solvers"),
        ("jnp.sqrt(2 * process.schedule", "jnp.sqrt(process.schedule", "solvers"),
        ("jnp.where(is_last, x0,", "jnp.where(~is_last, x0,", "solvers"),
    ],
    "diffusion/sampler.py": [
        ("fold(keys, STEPS + i)", "fold(keys, STEPS)", "sampler solvers"),
        ("stream_id(name)), stream.shape)", "0), stream.shape)", "sampler"),
        ("if not streams[name].duration_of}, processes", "}, processes", "duration"),
        ("jnp.where(is_visible, start[name], moved[name])", "moved[name]", "sampler masked"),
        ("given = {**given, name: draw(given, [name])[name]}", "given = {**given}", "sampler"),
        (
            "jnp.arange(num) if rows is None else jnp.asarray(rows)",
            "jnp.arange(len(rows) if num is None else num)",
            "sampler",
        ),
        ("check_names(prefix, given,", "check_names((), given,", "sampler"),
        ("if number < 1:", "if number < 0:", "calls sampler"),
        ("if not 0 < shift < math.inf:", "if not 0 <= shift < math.inf:", "calls"),
        ("return classifier_free(guidance)", "return None", "calls"),
    ],
    "diffusion/encode.py": [
        ('domain(key, "encode")', "key", "keys"),
        ("or order[name].ndim]", "]", "encode"),
    ],
    "diffusion/rollout.py": [
        ("jnp.roll(last, known, axis=1)", "jnp.roll(last, -known, axis=1)", "video"),
        ("keys = fold(keys, stream_id(name))", "keys = keys", "video"),
    ],
    "diffusion/blockwise.py": [
        ("jnp.minimum(last + 1, groups - 1)", "jnp.minimum(last, groups - 1)", "blocks"),
        ("caches, (past, last))", "caches, (past, last + 1))", "blocks"),
        (
            "self.caches[name] = self.apply(x, t, self.caches.get(name)",
            'self.caches[name] = self.apply(x, t, self.caches.get("conditional")',
            "blocks",
        ),
    ],
    "diffusion/interpolate.py": [("w * norm(b))", "w * norm(a))", "encode")],
    "diffusion/likelihood.py": [
        ("size / 2 * math.log(2 * math.pi)", "size * math.log(2 * math.pi)", "likelihood"),
        ("np.array([1, 2, 2, 1]) / 6", "np.array([1, 1, 1, 1]) / 4", "likelihood"),
    ],
    "network/layers.py": [
        ("jnp.arange(half) / half)", "jnp.arange(half) / (half - 1))", "dit"),
        ("[jnp.cos(angle), jnp.sin(angle)]", "[jnp.sin(angle), jnp.cos(angle)]", "dit"),
        ("q.shape[-1] ** -0.5", "q.shape[-1] ** -0.25", "dit"),
        ("jnp.where(mask, scores, -jnp.inf)", "scores", "blocks"),
        ("return x * (1 + scale) + shift", "return x * scale + shift", "dit"),
        ("(cached[0], k, offset, axis=1)", "(cached[0], k, 0, axis=1)", "blocks"),
        ("(cached[1], v, offset, axis=1)", "(cached[0], v, offset, axis=1)", "blocks"),
        ('"(b p) g h d"', '"(b g) p h d"', "dit"),
        ('"use_bias": layer.block.bias', '"use_bias": True', "dit"),
        ("self.ratio * width * 2 / 3", "self.ratio * width * 3 / 4", "dit"),
        ("has_kernel(q) and not forward_mode()", "has_kernel(q)", "dit"),
        ("else view_mask(self.view, self.frames, x.shape[1])", "else None", "taps"),
        ("value = (scale * value + offset)", "value = (scale * value)", "taps"),
        ('y = tap(self, "heads", y)', 'tap(self, "heads", y)', "taps"),
    ],
    "network/layout.py": [
        ("np.greater.outer(step, step)", "np.less.outer(step, step)", "blocks"),
        ("(is_past | (step == 0))", "is_past", "blocks"),
        ("return sum(earlier) + group * size, size", "return group * size, size", "blocks"),
        ("first + np.repeat(np.arange(levels[name])", "np.repeat(np.arange(levels[name])", "dit"),
        ("(stream.shape[0] // steps)", "(stream.shape[0] // tokens)", "duration"),
    ],
    "network/dit.py": [
        ("jnp.where(t > 0, u, 0.0)", "u", "dit"),
        ("prevent_cse=self.unroll >= depth", "prevent_cse=False", "dit"),
        ("row = sorted(times).index", "row = list(times).index", "dit"),
        ("(len(times), self.width))[stream_of_level]", "(len(times), self.width))[stream_of_level * 0]", "dit"),
        ("        check_fields(self)\n        object", "        object", "dit"),
        ("if self.width % self.heads:", "if False:", "dit"),
        ('tap(self, "mlp_gate", gate)', 'tap(self, "mlp_gate", chunks[4])', "taps"),
    ],
    "network/taps.py": [
        ("side[i :: len(paths)]", "side[: len(side) // len(paths)]", "taps"),
        ("for path in paths_of(name)], axis=1)", "for path in paths_of(name)], axis=0)", "taps"),
        ("else jnp.where(here, side, neutral)", "else side", "taps"),
        ("of(edit.offset, 0.0)", "of(edit.offset, 1.0)", "taps"),
    ],
    "inside/noised.py": [
        ("{*hidden} | (", "(", "inside"),
        ("losses[1:] - losses[0]", "losses[1:] - losses[-1]", "inside"),
    ],
    "inside/parts.py": [
        ("jnp.arange(model.depth) < block", "jnp.arange(model.depth) <= block", "inside"),
        ("1.0 - np.eye", "np.eye", "inside"),
        ("invert=True", "invert=False", "inside"),
        ("jnp.median(size, axis=(-3, -2, -1))", "jnp.mean(size, axis=(-3, -2, -1))", "inside"),
    ],
    "inside/optimum.py": [
        ("jnp.sum(far, axis=axes) / 2", "jnp.sum(far, axis=axes)", "inside"),
        ("| processes[name].is_mask(z[name])", "", "inside"),
        ('"distance": (found, optimum)', '"distance": (optimum, targets)', "inside"),
    ],
    "inside/heads.py": [
        ("/ jnp.maximum(own, 1e-30)", "", "inside"),
        ("jnp.mean(p, axis=(-4, -2))", "jnp.max(p, axis=(-4, -2))", "inside"),
        ("slice(end - count, end)", "slice(0, end)", "inside"),
    ],
    "inside/jacobian.py": [
        ("orthonormal(pull(vectors))", "orthonormal(image(vectors))", "inside"),
        ("(mixed @ flat(vectors))", "flat(vectors)", "inside"),
    ],
    "inside/identity.py": [
        ("axis=0) > level", "axis=0) >= level", "inside"),
        ("for more in ({}, other)", "for more in (other, other)", "inside"),
        ('"residual", hidden)', '"residual")', "inside"),
        ("(test - mean) / std", "test", "inside"),
    ],
    "inside/page.py": [
        ("name = html.escape(caption)", "name = caption", "inspect"),
    ],
    "network/tokens.py": [
        ("for axis in (TIME, ROW, COLUMN))\n    spatial", "for axis in (TIME, COLUMN, ROW))\n    spatial", "tokens"),
        ("[np.sin(angle), np.cos(angle)]", "[np.cos(angle), np.sin(angle)]", "tokens"),
        ("({' '.join(within)} c)", "(c {' '.join(within)})", "tokens"),
        ("first * cos - second * sin", "first * cos + second * sin", "tokens"),
        ("(spatial + later)", "spatial", "dit"),
    ],
    "data/pipeline.py": [
        ("default_rng((seed, epoch))", "default_rng((seed, 0))", "data"),
        ("default_rng((seed, epoch))", "default_rng((0, epoch))", "data"),
        ('example["image"][:, ::-1]', 'example["image"][::-1]', "data"),
        ("range(batch_size) if rows is None else rows", "range(batch_size)", "data"),
        ("grain.MapDataset.range(start,", "grain.MapDataset.range(0,", "data"),
        ('"flipped" if mirrored else "image"', '"image" if mirrored else "flipped"', "latents"),
    ],
    "pretrained/weights.py": [
        (" if key not in skip):", "):", "weights"),
        (" if array.dtype == np.float32}", "}", "weights"),
        ("[path, path / part] if", "[path] if", "weights vae"),
        ("if total > sum(", "if total < 0 * sum(", "weights convert"),
        ("if file.suffix in SUFFIXES or", "if", "weights"),
        ("    for key, name in _json(file", "    for key, name in {} and _json(file", "convert"),
    ],
    "pretrained/legacy.py": [
        ('raise Refused(f"{path} was not run")', "return getattr(__import__(module), name)", "weights"),
        ("storages[key], first * dtype.itemsize, strides", "storages[key], 0, strides", "weights"),
        ("if math.prod(shape) * dtype.itemsize > len(data):", "if False:", "weights"),
    ],
    "pretrained/entries.py": [
        ("not AVERAGED.search(name))}", "0)}", "weights convert"),
        ("if not OPTIMIZER.match(prefix):", "if True:", "weights convert"),
        (" and not name.startswith(inner)", "", "weights"),
        ('re.compile(r"((?:.*\\.)?)"', 're.compile(r"(.*)"', "weights"),
        ("if id(node) not in entered:", "if True:", "convert"),
        ("(count(pair[1]), bool(", "(0, bool(", "weights"),
    ],
    "pretrained/shapes.py": [
        ("settings[PIXELS] // 8", "settings[PIXELS]", "convert"),
        ("rows if dropout == 0 or rows == 1 else", "rows if rows == 1 else", "convert"),
        ("if rows != classes + 1:", "if False:", "convert"),
    ],
    "pretrained/dit.py": [
        ("rtol=_rounding(tensors[key])", "rtol=0", "convert"),
        ("np.zeros_like(found[key][:1])", "found[key][:1]", "convert"),
    ],
    "pretrained/vae.py": [("weights.read(file, DTYPES)", "weights.read(file)", "vae")],
    "sampling/draw.py": [
        ("grids.GRIDS[options.grid]", "grids.uniform", "wiring"),
        ("options.steps, options.shift,", "options.steps, 1.0,", "wiring"),
        ("REVEALS[options.reveal]", 'REVEALS["ancestral"]', "wiring"),
        ("SOLVERS[options.solver]", 'SOLVERS["2m"]', "wiring"),
        ("[: rows.stop - these[0]]", "", "draw"),
        ("first + size), rows.stop - 1)", "first + size), rows.stop)", "draw"),
        ("range(rows.start, rows.stop, size)", "range(0, rows.stop, size)", "draw"),
        ("min(batch, num) // parts", "min(batch, len(rows)) // parts", "equal_batches"),
        ("(values >= 0) & (values < vocabulary)", "values < vocabulary", "draw"),
        ("(values >= 0) & (values < vocabulary)", "(values >= 0) & (values <= vocabulary)", "draw"),
        (".all(1)) + first", ".all(1))", "draw"),
        ("options.guide(next(iter(weak), None), w)", "options.guide(next(iter(weak), None))", "draw"),
        ("@functools.lru_cache(maxsize=64)\n", "", "draw"),
    ],
    "sampling/plan.py": [
        ("tuple(options.drawn) or able", "able", "wiring"),
        ("if name not in given or name in read.prefix)", "if name not in given)", "plan"),
        ("np.zeros_like(samples) if self.start else", "", "plan"),
        ("x[rows % len(x)]", "x[np.arange(len(rows)) % len(x)]", "plan"),
        ("values[samples] for", "values[rows] for", "plan"),
        ("if not order.could_be_drawn:", "if False:", "plan"),
        ("and own != 1 and not options.weak", "and not options.weak", "plan"),
        ("and own != 1 and not options.weak", "and own != 1", "plan"),
    ],
    "sampling/given.py": [
        ("< int(count) < groups", "< int(count) <= groups", "streams"),
        ("stream.head is not None and np.any", "np.any", "plan"),
        ("elif not np.all(is_mask)", "else", "plan"),
        ('is_file(value.removeprefix("@"))', "False", "given_files"),
    ],
    "sampling/files.py": [
        ("there[-2:0:-1]", "there[-2::-1]", "plan"),
        ("enumerate(sample[name], start)", "enumerate(sample[name])", "shards"),
        ("first_samples(samples, SHOWN)", "first_samples(samples, 10**9)", "shards"),
    ],
    "sampling/shards.py": [
        ("        os.replace(part, path)\n", "        shutil.copy(part, path)\n", "shards"),
        ("    finally:\n        part.unlink(missing_ok=True)", "    finally:\n        pass", "shards"),
        ('glob("[0-9]*-[0-9]*.npz")', 'glob("*.npz")', "shards"),
        ("Shard(first, last + 1, path)", "Shard(first, last, path)", "shards"),
        ("if shard.start <= done <", "if done <", "shards"),
        ("    if done < num:\n", "    if done < 0:\n", "shards"),
        ("_copy(stream, None, (piece.start - begun)", "_copy(stream, None, 0 * (piece.start - begun)", "shards"),
        ("(begun + header.shape[0] - piece.stop) *", "0 *", "shards"),
        ("min(PIECE, count)", "count", "shards"),
        ("            raise zipfile.BadZipFile", "            return  # raise zipfile.BadZipFile", "shards"),
        ("if [piece.path for piece in pieces] != [whole]:", "if True:", "shards"),
        ("min(most, header.shape[0])", "header.shape[0]", "shards"),
        ("np.diff(left) > 1)", "np.diff(left) > 9)", "shards"),
        ("    shutil.rmtree(out / SHARDS, ignore_errors=True)\n    return whole", "    return whole", "shards"),
    ],
    "sampling/protocol.py": [
        ("if not nearest.is_dir():", "if False:", "shards"),
        ("        with tempfile.TemporaryFile(dir=nearest):\n            pass", "        pass", "shards"),
        ("and not overwrite:", "and False:", "shards"),
        ("    elif wrong or _deciding(_written(out)) != _deciding(protocol):", "    else:", "shards"),
        ('MENTIONED = ("step",)', "MENTIONED = ()", "shards"),
        ("shards[-1].stop <= num", "True", "shards"),
        ("if file.stem.isdecimal():", "if True:", "shards"),
        ("if not shards or (", "if (", "shards"),
        ("tobytes(), total)", "tobytes())", "shards"),
    ],
    "sampling/interpolate.py": [
        ("if SOLVERS[options.solver].is_stochastic:", "if False:", "draw"),
        ("    if not moving:", "    if False:", "draw"),
        ("and name not in given}", "}", "draw"),
    ],
    "sample_cli.py": [
        ("        sys.exit(130)", "        sys.exit(0)", "shards"),
        ("how.num * index // count", "0", "shards"),
        ('options |= {"num": how.num} if is_path else {}', "", "shards"),
        ('"weights": digest((params,', '"weights": digest((0,', "shards"),
        ("plan.order.drawn, first)", "plan.order.drawn)", "shards"),
        ("                first += len(next(iter(batch.values())))\n", "", "shards"),
    ],
    "sampling/sheet.py": [
        ("x, y = i % columns * wide", "x, y = i // columns * wide", "sheet"),
        ("_wrapped(title, across - 2 * MARGIN)", "[title]", "sheet"),
        ("if view.frame else 1", "if False else 1", "sheet"),
        ("y = height - 1 - BORDER - int(at * factor)", "y = BORDER + int(at * factor)", "sheet"),
        ("/ axis.step + 0.5", "/ axis.step", "sheet"),
        ("_shortened(captions[i], width)", "captions[i]", "sheet"),
        ("_printable(' | '.join(words))", "' | '.join(words)", "sheet"),
    ],
    "progress.py": [
        ("doing or words or now()", "words or now()", "progress"),
        ("int(seconds)", "int(seconds) + 1", "progress"),
        ("description=doing or unit", "description=unit", "progress"),
        ("        timer.cancel()", "        pass", "progress"),
    ],
    "training/stopping.py": [
        ("number != self._heard[0] or now", "now", "stopping"),
        ("if now > self._deadline and", "if False and", "stopping"),
        (" and not self._is_saving:", ":", "stopping"),
        ("            if self._is_saving:\n                return\n", "", "stopping"),
        ("if self._steps < 2 or self._is_saving", "if self._steps < 2", "stopping"),
        ("if now - self._last > self.limit:", "if False:", "stopping"),
        ("if sentence := self._unchanged():", "if sentence := False:", "stopping"),
        ("        signal.set_wakeup_fd(wakeup)\n", "", "stopping"),
    ],
    "training/initial.py": [
        ("theirs[name].shape == leaf.shape", "True", "initial"),
        (
            '        if not _is_end(name):\n            raise ValueError(f"train.init has {name}',
            '        if False:\n            raise ValueError(f"train.init has {name}',
            "initial",
        ),
        ("update * 0 if _name(path) in frozen", "update if _name(path) in frozen", "initial"),
    ],
    "training/held_out.py": [('domain(jax.random.key(0), "held out")', "jax.random.key(count)", "held_out")],
    "evaluation/frechet.py": [
        ("- 2 * values.sum()", "- values.sum()", "evaluation"),
        ("np.sqrt(len(x) - 1)", "np.sqrt(len(x))", "evaluation"),
        ("np.concatenate([root, block])", "block", "scores"),
        ("_relative(np.sum(values**2), np.sum(product**2)))", "0.0)", "scores"),
        ("float(np.linalg.norm(root.T @ root - covariance) / size) if size else 0.0", "0.0", "scores"),
    ],
    "evaluation/mmd.py": [
        ("count * (count - 1)", "count * count", "scores"),
        ("products / size + 1", "products + 1", "scores"),
        (" - inside @ _kernel(np.sum(x**2, axis=1), x.shape[1])", "", "scores"),
    ],
    "evaluation/neighbours.py": [
        (" | (first == 0)", "", "scores"),
        ("first < COPY * second", "first < second", "scores"),
        ("is_recalled[b] |=", "is_recalled[b] =", "scores"),
        ("nearest[b] = np.minimum(nearest[b], own.min(0, initial=np.inf))", "nearest[b] = own.min(0)", "scores"),
        ("axis=1)[:, ks].T", "axis=1)[:, :1].T", "scores"),
        ("ROUNDING = 1e-12", "ROUNDING = 0.0", "scores"),
    ],
    "evaluation/parts.py": [
        ("count // 2]] = True", "count // 4]] = True", "scores"),
        ("np.std(scores[1:], ddof=1)", "np.std(scores[1:], ddof=1) / 2", "scores"),
    ],
    "evaluation/diversity.py": [
        ("samples[part] / norms[part]", "samples[part]", "scores"),
        (
            "directions.T @ directions if d < n else directions @ directions.T) / n",
            "directions.T @ directions) / d",
            "scores",
        ),
        ("p[i : i + split]", "p[:split]", "scores"),
    ],
    "evaluation/inception.py": [
        ('_largest(x) if name == "Mixed_7c" else _average(x)', "_average(x)", "inception"),
        ("return add(x) / add(jnp.ones((1, *x.shape[1:3], 1), x.dtype))", "return add(x) / 9", "inception"),
        (
            "np.arange(size) * (length / size)",
            "np.maximum((np.arange(size) + 0.5) * (length / size) - 0.5, 0)",
            "inception",
        ),
        ("shift - mean * scale", "shift", "inception"),
    ],
    "evaluation/features.py": [
        ("np.asarray(values)[: len(block)]", "np.asarray(values)", "inception"),
        ("-(-batch // mesh.size) * mesh.size", "batch", "inception"),
    ],
    "evaluation/pictures.py": [
        ("allow_pickle=False", "allow_pickle=True", "evaluate_files"),
        ("    if low >= 0:\n", "    if False:\n", "evaluate_files"),
        ("if one.shape[-1] == 1 and not other.is_grey:", "if False:", "evaluate_files"),
    ],
    "evaluation/report.py": [
        ("is_ranked = not notes or across", "is_ranked = True", "evaluate_files"),
        ('path.open("x")', 'path.open("w")', "evaluate_files"),
    ],
    "evaluation/judge.py": [
        ("np.all([label == one", "np.any([label == one", "evaluation"),
        (" & (one != NOTHING)", "", "evaluation alignment"),
        ("np.mean(seen[name] == labels)", "np.mean(seen[name] != labels)", "evaluation"),
    ],
    "evaluation/text.py": [
        ("(count + d * shorter)", "(count + shorter)", "text"),
        ("np.log2(share)))", "np.log(share)))", "text"),
        ("len(compress(before + alone)) - len(compress(before))", "len(compress(before + alone))", "text"),
    ],
    "run.py": [
        ("self.interval, COMBINE[self.combine], self.channels", "self.interval, COMBINE[self.combine], 0", "wiring"),
        (
            "self.interval, COMBINE[self.combine], self.channels",
            '(0.0, 1.0), COMBINE["linear"], self.channels',
            "wiring",
        ),
    ],
    "schema.py": [
        (
            "for name, parameter in schema.items()} | arguments",
            "for name, parameter in {}.items()} | arguments",
            "changes",
        ),
        ("if float in kinds and type(value) is int", "if float in kinds and type(value) is bool", "config"),
        ("and value not in note:", "and False:", "config"),
        ("value > self.above", "value >= self.above", "config"),
        ("value < self.below", "value <= self.below", "config"),
        ("if not isinstance(value, str):\n        return value", "return value", "config"),
        ("keyword.value = ast.Constant(word)", "pass", "config"),
        ("value.item() if isinstance(value, np.generic) else value", "value", "calls"),
    ],
    "command.py": [
        ('if value == "" and parameter.default:', "if False:", "command"),
        ("return _of_file(error) if error.errno else str(error)", "return None", "command"),
        ("        record(**given)\n", "        pass\n", "command"),
        ("    if words:\n        raise", "    if False:\n        raise", "command"),
        ('flag.partition("=")[0] not in given', "True", "command"),
        ("if EACH in notes(annotation) else", "if False else", "command"),
        ("if value is not None}", "}", "evaluate"),
    ],
    "names.py": [
        ('name == "".join(part[:1]', 'name != "".join(part[:1]', "config"),
    ],
    "config.py": [
        ("return [*names, *others]", "return [*words]", "config"),
        ('{"steps": train.steps}', '{"steps": 1000}', "wiring"),
        ("if options.channels > most:", "if False:", "draw"),
    ],
}
MUTANTS = [
    Mutant(f"dit_jax/{file}", old, new, tuple(f"tests/test_{name}.py" for name in tests.split()))
    for file, rows in TABLE.items()
    for old, new, tests in rows
]


def fault(mutant: Mutant, root: Path = ROOT) -> str:
    """Why a row cannot be applied, or nothing."""
    path = root / mutant.file
    found = path.read_text().count(mutant.old) if path.exists() else 0
    if found != 1:
        return f"the text is there {found} times"
    missing = [name for name in mutant.tests if not (root / name).exists()]
    if missing or not mutant.tests:
        return f"there is no {', '.join(missing) or 'test'}"
    try:
        compile(path.read_text().replace(mutant.old, mutant.new), mutant.file, "exec")
    except SyntaxError as error:
        return f"what comes of it is no Python: {error}"
    return ""


class Copy:
    """The tracked files in a temporary folder, and what has been compiled for them beside it."""

    def __init__(self, folder: Path):
        self.tree, self.compiled = folder / "tree", folder / "compiled"
        names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
        for name in filter(None, names.split("\0")):
            if (ROOT / name).is_file():
                (self.tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.tree / name)

    def test(self, names: tuple[str, ...]) -> tuple[int | None, str]:
        """(pytest's exit status, or None if it took too long; the end of what it said)."""
        how = ["-x", "-q", "-p", "no:cacheprovider", "-n", "0", "-m", "not heavy"]
        command = [sys.executable, "-m", "pytest", *how, *names]
        compiled = {"JAX_COMPILATION_CACHE_DIR": str(self.compiled), "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            done = subprocess.run(
                command, cwd=self.tree, env=os.environ | compiled, timeout=LIMIT, capture_output=True, text=True
            )
        except subprocess.TimeoutExpired:
            return None, f"no end after {LIMIT} s"
        lines = (done.stdout + done.stderr).strip().splitlines()
        return done.returncode, next((line for line in lines if line.startswith(("FAILED", "ERROR"))), lines[-1])

    def mutated(self, mutant: Mutant) -> tuple[int | None, str]:
        path = self.tree / mutant.file
        whole = path.read_text()
        path.write_text(whole.replace(mutant.old, mutant.new))
        try:
            return self.test(mutant.tests)
        finally:
            path.write_text(whole)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time")
    parser.add_argument("--only", default="", help="only rows in which this occurs: file, text or test")
    parser.add_argument("--check", action="store_true", help="only say which rows cannot be applied")
    arguments = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if arguments.only in f"{mutant} {' '.join(mutant.tests)}"]
    wrong = [(mutant, why) for mutant in chosen if (why := fault(mutant))]
    for mutant, why in wrong:
        print(f"cannot be applied: {mutant}: {why}")
    print(f"{len(chosen)} rows, {len(wrong)} of them cannot be applied", flush=True)
    if arguments.check or not chosen:
        return 1 if wrong or not chosen else 0

    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copies: queue.Queue[Copy] = queue.Queue()
        for job in range(arguments.jobs):
            copies.put(Copy(Path(folder) / str(job)))

        def lent(task, work):
            """work(copy, task), with one of the copies."""
            copy, begun = copies.get(), time.monotonic()
            try:
                return task, *work(copy, task), time.monotonic() - begun
            finally:
                copies.put(copy)

        with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
            good = [mutant for mutant in chosen if mutant not in {mutant for mutant, _ in wrong}]
            files = sorted({name for mutant in good for name in mutant.tests})
            for name, status, said, seconds in pool.map(lambda name: lent((name,), Copy.test), files):
                print(
                    f"{'passes' if status == 0 else 'FAILS'} without a mutant: {name[0]} ({seconds:.0f} s)", flush=True
                )
                if status != 0:
                    pool.shutdown(cancel_futures=True)
                    print(said)
                    return 1
            survivors = []
            for mutant, status, said, seconds in pool.map(lambda mutant: lent(mutant, Copy.mutated), good):
                survivors += [] if status in FAILED else [mutant]
                print(
                    f"{'killed' if status in FAILED else 'SURVIVED'} ({seconds:.0f} s) {mutant}\n    {said}", flush=True
                )

    print(f"{len(good) - len(survivors)} of {len(good)} killed")
    for mutant in survivors:
        print(f"survived: {mutant}; tried {', '.join(mutant.tests)}")
    return 0 if not wrong and len(survivors) <= (1 - ENOUGH) * len(good) else 1


if __name__ == "__main__":
    sys.exit(main())
