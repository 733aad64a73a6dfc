"""A story made like a build: what is there is kept, what is missing is generated, group by group.

Whatever is finished is on disk at once, so that an interrupted story goes on where it stopped.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from m2dit_jax.diffusion.sampling import Conditions, Latents, noise_given
from m2dit_jax.pipeline.engine import Engine
from m2dit_jax.stories import noise
from m2dit_jax.stories.gate import SceneToJudge, Verdict, judge
from m2dit_jax.stories.history import History
from m2dit_jax.stories.inputs import Identity, picture_identity, text_key
from m2dit_jax.stories.keeping import standing_scenes
from m2dit_jax.stories.plan import StoryPlan
from m2dit_jax.stories.progress import ProgressTracker, Report
from m2dit_jax.stories.store import SceneStore
from m2dit_jax.stories.walk import Outcome, StoryWalk
from m2dit_jax.stories.windows import Group
from m2dit_jax.utils.finite import check_finite, is_finite
from m2dit_jax.utils.frames import saturation

_CLIP = "clip"  # in place of a decoder's name
OnGroup = Callable[[dict[int, Outcome]], None]
OnScene = Callable[[int, UInt8[np.ndarray, "F H W 3"]], None]


class StoryBuilder:
    """Makes the scenes of a plan; a second run of the same plan finds all of them made.

    `history` is that of the folder. Raises StoryboardError if a scene that is to be kept cannot be.
    """

    def __init__(
        self,
        plan: StoryPlan,
        engine: Engine,
        store: SceneStore,
        history: History = MappingProxyType({}),
    ):
        self.plan, self.engine, self.store = plan, engine, store
        self._fingerprint = engine.fingerprint
        self._standing = standing_scenes(
            plan, self._fingerprint, history, lambda key: store.about(key) is not None
        )

    def outlook(self) -> StoryWalk:
        """The walk as it will go if every scene that is still to be made passes the gate."""
        walk = StoryWalk(self.plan, self._fingerprint, self._standing)
        with suppress(KeyError):
            self._judge_standing(walk)
        while group := walk.next_group():
            for scene, identity in walk.identities(group).items():
                there = self.store.about(identity.key) is not None
                verdict = Verdict()
                if there:
                    # If frames are not there, the scene's or those that it is compared with, the
                    # build will have to tell.
                    with suppress(KeyError):
                        verdict = self._judge(walk, scene, identity)
                walk.settle(scene, group, identity, verdict, there)
        return walk

    def build(
        self, report: Report, on_scene: OnScene, on_group: OnGroup = lambda outcomes: None
    ) -> dict[int, Outcome]:
        """Builds the story and returns the outcome of each scene; the store then has all frames.

        Raises NotFinite for a scene whose numbers are none; what was finished before stays.

        `on_scene` gets the frames of each generated scene once, as soon as they are decoded,
        `on_group` after each group what has become of scenes until then.
        """
        made: set[int] = set()  # scenes of which something was generated in this run
        settings = self.plan.settings
        walk = StoryWalk(self.plan, self._fingerprint, self._standing)
        scenes = len(self.plan.storyboard.scenes)
        tracker = ProgressTracker(scenes, settings.steps, report, tuple(self.plan.notes))
        tracker.expect(_groups_to_make(self.outlook()))
        self._keep_clips(walk)
        tracker.finish(walk.outcomes)
        decode_at_once = bool(self.plan.checks) or self.engine.codec.instant
        with self.engine.networks.session(together=decode_at_once):
            if decode_at_once:
                for scene in self._standing:
                    self._hand_over(scene, self._standing[scene].identity, on_scene)
                self._judge_standing(walk)
            while group := walk.next_group():
                identities = walk.identities(group)
                if any(self.store.about(identity.key) is None for identity in identities.values()):
                    self._generate(tracker, walk, group, identities)
                    made |= set(group.new)
                for scene, identity in identities.items():
                    if decode_at_once and self._is_finite(identity):
                        self._decode(scene, identity)
                    verdict = self._judge(walk, scene, identity)
                    walk.settle(scene, group, identity, verdict, scene not in made)
                    outcome = walk.outcomes.get(scene)
                    if outcome and outcome.failed and not self._is_finite(identity):
                        self._give_up(scene, outcome, identities)
                    if decode_at_once and scene in walk.outcomes:
                        self._hand_over(scene, identity, on_scene)
                tracker.finish(scene for scene in group.new if scene in walk.outcomes)
                on_group(walk.outcomes)
            if not decode_at_once:
                for scene, outcome in sorted(walk.outcomes.items()):
                    if outcome.status != "given":
                        self._hand_over(scene, outcome.identity, on_scene)
                        tracker.finish([])  # who listens may want to end it here
        return walk.outcomes

    def frames(self, outcome: Outcome) -> UInt8[np.ndarray, "F H W 3"]:
        """Frames of a built or given scene, from the store."""
        return self.store.frames(outcome.identity.key)

    # --- one group

    def _generate(
        self,
        tracker: ProgressTracker,
        walk: StoryWalk,
        group: Group,
        identities: dict[int, Identity],
    ) -> None:
        self._encode_prompts()
        self._encode_clips(walk)
        started = time.monotonic()
        plan, scenes = self.plan, group.scenes
        keys = [
            noise.scene_key(
                plan.seed(s), 0 if s in group.context else walk.attempt(s), plan.take(s)
            )
            for s in scenes
        ]
        lengths, size = self._latent_sizes(scenes)
        story = self._conditions(walk, group, keys)
        steps = plan.options(scenes).table(self.engine.schedule)
        draws = bool(np.any(steps.weights[:, 3]))
        none = jnp.zeros_like(story.clean)

        def step_noise(step: int) -> Latents:
            return noise.step_noise(keys, step, lengths, size) if draws else none

        tracker.begin(group.new)
        evaluations, latents = 0, noise.start_noise(keys, lengths, size)
        ragged = lengths if len(set(lengths)) > 1 else None
        results = self.engine.denoise(steps, story, latents, step_noise, ragged, self._lora(scenes))
        for number, result in enumerate(results, 1):
            latents = result.latents
            evaluations += int(result.evaluations[0])
            tracker.step(number)
            if not is_finite(latents):  # nothing better can come of them
                break
        made, seconds = np.asarray(latents, np.float32), time.monotonic() - started
        for place, scene in enumerate(scenes):
            if scene in identities:
                identity = identities[scene]
                kept = made[0, place, : lengths[place]]
                if is_finite(kept):  # rounded to pixels, NaN would be black
                    kept = self.engine.codec.as_given(kept)
                about = {
                    "inputs": identity.inputs,
                    "seconds": round(seconds, 3),
                    "steps": len(steps.timesteps),
                    "evaluations": evaluations,
                }
                self.store.put_latents(identity.key, np.asarray(kept, np.float32), about)

    def _conditions(self, walk: StoryWalk, group: Group, keys: list[Array]) -> Conditions:
        plan, scenes, story = self.plan, group.scenes, self.plan.storyboard
        lengths, size = self._latent_sizes(scenes)
        clean: list[Any] = []
        known = np.zeros((1, len(scenes), max(lengths)), bool)
        for place, (scene, key, length) in enumerate(zip(scenes, keys, lengths, strict=True)):
            if scene not in group.context:
                clean.append(np.zeros((length, *size), np.float32))
                if story.scenes[scene].first_frame:
                    first = self.store.latents(self._picture(scene).key)
                    clean[-1][: len(first)], known[0, place, : len(first)] = first, True
                continue
            latents = self.store.latents(walk.known[scene])
            if plan.settings.noise_given:
                drawn = noise.given_noise(key, latents.shape)
                stories = (jnp.asarray(latents)[None, None], drawn[None, None])
                latents = noise_given(self.engine.schedule, *stories)[0, 0]
            clean.append(latents)
        given = jnp.array([[scene in group.context for scene in scenes]])
        prompts = [story.scenes[scene].prompt for scene in scenes]
        negatives = [plan.negative_prompt(scene) for scene in scenes]
        if self._has_global_text:
            # Before the scenes' own; without guidance's negative branch it is what it always is.
            prompts, negatives = (
                [plan.settings.global_prompt, *prompts],
                [plan.settings.negative_prompt, *negatives],
            )
        how = "held" if self.engine.learnt_first_frames else "known"
        negative = self._embeds(negatives) if plan.options(scenes).needs_negative else None
        return Conditions(
            noise.pad_frames(clean),
            given,
            self._embeds(prompts),
            negative,
            **{how: jnp.asarray(known) if known.any() else None},
        )

    def _lora(self, scenes: tuple[int, ...]) -> list[tuple[str, ...]]:
        """The adapters of each text of a group; the global one has none."""
        return [*[()] * self._has_global_text, *(self.plan.lora(scene) for scene in scenes)]

    def _picture(self, scene: int) -> Identity:
        return picture_identity(self.plan, self._fingerprint, scene)

    def _latent_sizes(self, scenes: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Latent frames of each scene, and the shape of a latent frame, which all share."""
        settings = self.plan.settings
        shapes = [
            self.engine.codec.latent_shape(self.plan.frames(s), settings.height, settings.width)
            for s in scenes
        ]
        return tuple(shape[0] for shape in shapes), shapes[0][1:]

    # --- what generating needs

    def _embeds(self, prompts: list[str]) -> Float[Array, "1 S T E"]:
        found = [self.store.text(text_key(self._fingerprint, prompt)) for prompt in prompts]
        return jnp.stack([jnp.asarray(embeds) for embeds in found])[None]

    def _encode_prompts(self) -> None:
        """All prompts of the story that are not encoded yet."""
        missing = [
            prompt
            for prompt in self._prompts
            if not self.store.has_text(text_key(self._fingerprint, prompt))
        ]
        if missing:
            for prompt in missing:
                embeds = np.asarray(self.engine.embed_prompt(prompt))
                self.store.put_text(text_key(self._fingerprint, prompt), embeds)
            self.engine.networks.done("text encoder")

    @property
    def _has_global_text(self) -> bool:
        """Whether the model reads a global prompt, be it empty."""
        return bool(self.plan.settings.global_prompt) or self.engine.facts.global_text

    @cached_property
    def _prompts(self) -> list[str]:
        plan, story = self.plan, self.plan.storyboard
        everywhere = [plan.settings.global_prompt] if self._has_global_text else []
        own = [scene.prompt for scene in story.scenes]
        negative = [plan.negative_prompt(scene) for scene in range(len(story.scenes))]
        return list(dict.fromkeys([*everywhere, *own, plan.settings.negative_prompt, *negative]))

    def _keep_clips(self, walk: StoryWalk) -> None:
        """The frames of given scenes beside those of others: reading a video takes its time."""
        for scene, outcome in walk.outcomes.items():
            key = outcome.identity.key
            if outcome.status == "given" and not self.store.has_frames(key, _CLIP):
                self.store.put_frames(key, self.plan.clip(scene), _CLIP)

    def _encode_clips(self, walk: StoryWalk) -> None:
        """Latents of the given scenes, and of pictures that scenes begin with, if not there yet."""
        missing = {
            scene: outcome.identity
            for scene, outcome in walk.outcomes.items()
            if outcome.status == "given" and self.store.about(outcome.identity.key) is None
        }
        pictures = {
            scene: identity
            for scene, own in enumerate(self.plan.storyboard.scenes)
            if own.first_frame and self.store.about((identity := self._picture(scene)).key) is None
        }
        for scene, identity in (missing | pictures).items():
            key = noise.scene_key(self.plan.seed(scene))
            if scene in missing:
                latents = self.engine.encode_clip(self.store.frames(identity.key), key)
            else:
                picture = self.plan.clip(scene)
                latents = self.engine.encode_first(picture, self.plan.frames(scene), key)
            latents = np.asarray(latents, np.float32)
            self.store.put_latents(identity.key, latents, {"inputs": identity.inputs})
        if missing or pictures:
            self.engine.networks.done("VAE")

    # --- decoding and judging

    def _has_frames(self, identity: Identity) -> bool:
        return self.store.has_frames(identity.key, self.engine.codec.decoder_name)

    def _is_finite(self, identity: Identity) -> bool:
        return is_finite(self.store.latents(identity.key))

    def _decode(self, scene: int, identity: Identity) -> None:
        if not self._has_frames(identity):
            latents, frames = self.store.latents(identity.key), self.plan.frames(scene)
            frames = self.engine.decode(latents, frames, f"scene {scene + 1}")
            self.store.put_frames(identity.key, frames, self.engine.codec.decoder_name)

    def _give_up(self, scene: int, outcome: Outcome, group: dict[int, Identity]) -> None:
        """Raises NotFinite; nothing of the scene's attempts and of its group stays in the store."""
        latents = self.store.latents(outcome.identity.key)
        for identity in (*group.values(), *(attempt.identity for attempt in outcome.attempts)):
            if self.store.about(identity.key) and not self._is_finite(identity):
                self.store.discard(identity.key)
        check_finite(f"scene {scene + 1}: generated latents", latents)

    def _hand_over(self, scene: int, identity: Identity, on_scene: OnScene) -> None:
        self._decode(scene, identity)
        on_scene(scene, self.store.frames(identity.key))

    def _judge_standing(self, walk: StoryWalk) -> None:
        """The verdicts on scenes that stand, but on those that are kept: nobody judges these."""
        for scene, outcome in self._standing.items():
            if outcome.status != "kept" and self.plan.checks:
                walk.judge_standing(scene, self._judge(walk, scene, outcome.identity))

    def _judge(self, walk: StoryWalk, scene: int, identity: Identity) -> Verdict:
        """The gate's verdict on the frames in the store.

        Without checks every scene passes whose latents are numbers.
        """
        checks, story = self.plan.checks, self.plan.storyboard
        latents = self.store.latents(identity.key)
        if not checks and is_finite(latents):
            return Verdict()
        if not is_finite(latents):
            return judge(SceneToJudge(latents, np.zeros((0, 1, 1, 3), np.uint8)), checks)
        frames = self.store.frames(identity.key)
        wants_cut = story.scenes[scene].cut
        wants_cut &= scene > story.references
        before = walk.outcomes.get(scene - 1) if wants_cut else None
        return judge(
            SceneToJudge(
                latents,
                frames,
                wants_cut,
                None if before is None else self.frames(before),
                self._first_saturation(walk) if "saturation" in checks else None,
                self._read_misfits(scene, frames) if "oracle" in checks else (),
            ),
            checks,
        )

    def _read_misfits(self, scene: int, frames: UInt8[np.ndarray, "F H W 3"]) -> list[str]:
        prompts = [scene.prompt for scene in self.plan.storyboard.scenes]
        return self.engine.facts.oracle(prompts, self.plan.settings.global_prompt, scene, frames)

    def _first_saturation(self, walk: StoryWalk) -> float | None:
        """Saturation of the first known scene; None while there is none."""
        references = self.plan.storyboard.references
        known = [scene for scene in walk.known if scene >= references]
        return saturation(self.frames(walk.outcomes[min(known)])) if known else None


def _groups_to_make(outlook: StoryWalk) -> int:
    return len({o.group for o in outlook.outcomes.values() if o.status == "generated"})
