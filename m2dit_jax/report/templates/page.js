"use strict";

// The whole story: the strip's buttons jump to a scene, and the one that plays is marked.
const story = document.getElementById("story");
if (story) {
  const buttons = [...document.querySelectorAll(".strip button")];
  const now = document.getElementById("now");
  const mark = () => {
    const share = story.currentTime / story.duration || 0;
    for (const button of buttons) {
      const here = share >= Number(button.dataset.from) && share < Number(button.dataset.to);
      if (here === button.hasAttribute("aria-current")) continue;
      button.toggleAttribute("aria-current", here);
      if (!here) continue;
      now.textContent = button.getAttribute("aria-label");
      // Not scrollIntoView, which also moves the page.
      const strip = button.closest(".strip");
      strip.scrollLeft = button.offsetLeft - (strip.clientWidth - button.clientWidth) / 2;
    }
  };
  for (const button of buttons) {
    button.addEventListener("click", () => {
      story.currentTime = Number(button.dataset.start) * story.duration;
    });
  }
  for (const event of ["timeupdate", "seeked", "loadedmetadata"]) {
    story.addEventListener(event, mark);
  }
  mark();
}

// Videos are in the page once, in their players.
for (const link of document.querySelectorAll("a[data-player]")) {
  link.href = document.getElementById(link.dataset.player).src;
  link.hidden = false;
}

// Players of one group play, pause and jump together.
const groups = new Map();
for (const video of document.querySelectorAll("video[data-group]")) {
  const group = groups.get(video.dataset.group) ?? [];
  groups.set(video.dataset.group, [...group, video]);
}
const following = new Set(); // players that jump because another one did
for (const group of groups.values()) {
  for (const leader of group) {
    const others = group.filter((video) => video !== leader);
    leader.addEventListener("play", () => others.forEach((video) => video.play().catch(() => {})));
    leader.addEventListener("pause", () => others.forEach((video) => video.pause()));
    leader.addEventListener("seeking", () => {
      if (following.has(leader)) return;
      for (const video of others) {
        const time = Math.min(leader.currentTime, video.duration || 0);
        if (Math.abs(video.currentTime - time) < 0.02) continue;
        following.add(video);
        video.currentTime = time;
      }
    });
    leader.addEventListener("seeked", () => following.delete(leader));
  }
}

const playAll = document.getElementById("play-all");
if (playAll) {
  const videos = [...groups.values()].flat();
  const stories = groups.get("story");
  const position = document.getElementById("position");
  playAll.addEventListener("click", () => {
    const play = stories[0].paused;
    for (const video of videos) play ? video.play().catch(() => {}) : video.pause();
  });
  for (const event of ["play", "pause"]) {
    stories[0].addEventListener(event, () => {
      playAll.textContent = stories[0].paused ? "Play all" : "Pause all";
    });
  }
  document.getElementById("restart-all").addEventListener("click", () => {
    for (const video of videos) video.currentTime = 0;
  });
  position.addEventListener("input", () => {
    stories[0].currentTime = Number(position.value) * (stories[0].duration || 0);
  });
  stories[0].addEventListener("timeupdate", () => {
    if (document.activeElement === position && stories[0].paused) return;
    position.value = stories[0].currentTime / stories[0].duration || 0;
  });
  const only = document.getElementById("only-differing");
  const filter = () =>
    document.getElementById("settings").classList.toggle("only-differing", only.checked);
  only.addEventListener("change", filter);
  filter();
}
