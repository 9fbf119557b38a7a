"""Train a network of masks against a frozen backbone, resumably."""

import json
from collections.abc import Iterator
from dataclasses import asdict

import torch

from pipeline.core.errors import Diverged, check
from pipeline.core.progress import WARNING, say, track
from pipeline.saliency.explain_network import (
    INFO_FILE,
    INPUT_SIDE,
    MaskNetwork,
    resized,
    write_explainer,
)
from pipeline.shardset.manifest import load_dataset_info
from pipeline.storage.atomic import write_atomically
from training.config.file import CONFIG_FILE, differences
from training.core.checkpoint import CheckpointStore, load_state
from training.core.context import LocalContext
from training.core.schedules import cosine_lr
from training.core.threads import sharing_threads, threads_set_by_user, update_threads
from training.data.loader import make_loader
from training.data.stream import BatchDataset
from training.data.stream_config import StreamConfig
from training.engine.device import num_loader_workers
from training.engine.stopping import asked_to_stop
from training.evaluate.diagnostics import fill_of
from training.evaluate.encoders import calibrate, load_encoders
from training.evaluate.features import to_unit_range
from training.evaluate.labelled import hashed_subset, stored_images
from training.explain.check import Crops, check_masks, features_under
from training.explain.config import UNTRAINED, ExplainConfig
from training.explain.objective import Losses, Prototypes, losses
from training.randomness.draws import QUERY
from training.record.metrics import MetricsLog
from training.views.fills import FILLS
from training.views.settings import AugmentConfig, ViewConfig
from training.views.spec import Crop, ViewSpec

CROP_SCALE, BOUNDS_WEIGHT, LOG_STEPS = (0.5, 1.0), 10.0, 20
PROTOTYPE_IMAGES, CHECKED_IMAGES = 20_000, 256
CARD = """# Explainer: `--saliency explain:weights=FOLDER` of jobs/precompute.py and jobs/score.py

Its masks, 56 x 56, keep what a backbone recognises an image by, and hide the rest.

```
{}
```
"""


class Trainer:
    """A training, begun or gone on with from the newest checkpoint in `config.out`.

    Raises:
        InputError: no such backbone or shards, fewer images than a batch or than prototypes, or
            `config.out` holds something else than this very training.
    """

    def __init__(self, config: ExplainConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        names = [str(config.checkpoint), config.second]
        self.encoder, self.second = load_encoders(
            names, encoder="query", seed=config.seed, device=device
        )
        self.encoder.network.requires_grad_(False)
        self.fill, self.images = fill_of(self.encoder), stored_images(config.shards)
        self.images.pixels.check_rgb("an explainer")
        digests = {"backbone": self.encoder.digest, "data": self.images.digest}
        digests |= {"second": self.second.digest, "fill": self.fill}
        self.about = digests | config.to_json()
        self._check_folder()
        side = max(self.encoder.view_size, INPUT_SIDE)  # either network sees all that it can
        crop = Crop(name=QUERY, cut=ViewConfig(size=side, grid=1, crop_scale=CROP_SCALE))
        stream = StreamConfig(
            seed=config.seed,
            batch_size=config.batch_size,
            views=(ViewSpec(name=QUERY, crop=crop, fill=FILLS[self.fill]),),
            augment=AugmentConfig(),
        )
        has, size = self.images.num_images, config.batch_size
        check(has >= size, f"{config.shards} holds {has} images: wanted a batch, {size}, or more")
        info = load_dataset_info(config.shards)
        self.data = BatchDataset(config.shards, info, stream, rank=0, world_size=1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.network = MaskNetwork(config.width).to(device)
        self.optimizer = torch.optim.Adam(self.network.parameters())
        self.store, self.step = CheckpointStore(config.out / "checkpoints"), 0
        if (latest := self.store.latest()) is None:
            numbers = hashed_subset(self.images.shard_sizes, PROTOTYPE_IMAGES).tolist()
            features_MD, _ = self.encoder.extract(self.encoder.batches(self.images, numbers))
            features_MD = features_MD.to(device)
            self.prototypes = Prototypes.of(features_MD, config.prototypes, seed=config.seed)
            return
        state = load_state(latest, device)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.prototypes = int(state["step"]), Prototypes(*state["prototypes"])
        say(f"resuming after step {self.step} from {latest}")

    def run(self, context: LocalContext) -> bool:
        """Train, check the masks, write the explainer; False if a stop was asked for before."""
        config = self.config
        write_atomically(config.out / CONFIG_FILE, json.dumps(self.about, indent=2).encode())
        log = MetricsLog(config.out, resume_step=self.step)
        try:
            crops = self._crops(self.step, config.steps)
            for one in track(crops, "training", config.steps - self.step, "steps"):
                update_threads()
                parts = self._train_step(one)
                ends = self.step == config.steps or context.stop_requested()
                if self.step % LOG_STEPS == 0 or self.step == config.steps:
                    values = {name: float(part) for name, part in parts._asdict().items()}
                    log.write(step=self.step, kind="train", values=values)
                if ends or self.step % config.checkpoint_steps == 0:
                    self._save()
                if ends and self.step < config.steps:  # else its bar would not reach its end
                    break
            if self.step == config.steps:
                self._finish(log)
        finally:
            log.close()
        return self.step == config.steps

    def _crops(self, start: int, stop: int) -> Iterator[Crops]:
        for batch in make_loader(
            self.data,
            start_step=start,
            stop_step=stop,
            num_workers=num_loader_workers(None, self.device),
            pin_memory=self.device.type == "cuda",
        ):
            image01_BCUU = to_unit_range(batch.crops[QUERY].images_BCHW, self.device)
            yield image01_BCUU, batch.noise_seeds_B.to(self.device)

    def _train_step(self, crops: Crops) -> Losses:
        config, mask_B1PP = self.config, self.network(crops[0])
        with torch.no_grad():
            whole_BD = self.encoder.forward(resized(crops[0], self.encoder.view_size)).float()
        seen = (whole_BD, *features_under(self.encoder, crops, mask_B1PP, self.fill))
        logs = (self.prototypes.log_p(features, config.temperature) for features in seen)
        parts = losses(*logs, mask_B1PP=mask_B1PP, area=config.area)
        loss = parts.keep - config.entropy_weight * parts.entropy + BOUNDS_WEIGHT * parts.bounds
        loss = loss + config.variation_weight * parts.variation + config.area_weight * parts.area
        if not bool(torch.isfinite(loss)):
            raise Diverged(f"the loss is no longer finite at step {self.step}: lower --lr")
        self.optimizer.zero_grad()
        loss.backward()
        lr = cosine_lr(self.step, base_lr=config.lr, total_steps=config.steps, warmup_steps=0)
        self.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.step()
        self.step += 1
        return Losses(*(part.detach() for part in parts))

    def _save(self) -> None:
        state = {
            "step": self.step,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "prototypes": tuple(self.prototypes),
        }
        self.store.save(self.step, state, self.about, lambda _folder: None)

    def _finish(self, log: MetricsLog) -> None:
        config, steps = self.config, self.config.steps
        if config.second == UNTRAINED:
            calibrate(self.second, self.images)
        crops = self._crops(steps, steps + -(-CHECKED_IMAGES // config.batch_size))
        found = check_masks(self.network, (self.encoder, self.second), crops, self.fill)
        log.write(step=steps, kind="check", values=asdict(found))
        for words in found.warnings():
            log.message(step=steps, kind="warning", message=words)
            say(f"{WARNING}{words}")
        about = {"trained": self.about, "check": asdict(found), "warnings": found.warnings()}
        card = CARD.format(json.dumps(about, indent=2))
        write_atomically(config.out / "README.md", card.encode())
        write_explainer(config.out, self.network, about)

    def _check_folder(self) -> None:
        out, path = self.config.out, self.config.out / CONFIG_FILE
        before = json.loads(path.read_text()) if path.is_file() else self.about
        is_empty = not out.exists() or (out.is_dir() and not any(out.iterdir()))
        fits = is_empty or (path.is_file() and "prototypes" in before)
        check(fits, f"{out} is no explainer's folder: choose another --out")
        changed = "; ".join(differences(before, self.about))
        check(
            not changed,
            f"{out} holds an explainer of other settings, images or another backbone ({changed}): "
            "give the same ones to go on, or choose another --out",
        )


def explain(config: ExplainConfig, context: LocalContext | None = None) -> bool:
    """Train or resume an explainer in this process; whether it is finished. Raises as `Trainer`."""
    context = context or LocalContext()
    with sharing_threads(fixed=threads_set_by_user()), asked_to_stop(context.request_stop):
        trainer = Trainer(config, context.device)
        return (config.out / INFO_FILE).exists() or trainer.run(context)
