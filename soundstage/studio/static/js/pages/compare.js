// Two clips side by side, played together by one set of controls.

import { html, useEffect, useRef, useState } from "../lib.js";
import { refreshJob, useStore } from "../store.js";
import { Chips, Icon } from "../ui/controls.js";
import { Player } from "../ui/media.js";
import { clock } from "../words.js";
import { Actions, clipOf, jobFacts, promptOf } from "./job.js";

const DRIFT_S = 0.08; // more than this apart, the second is put to the time of the first
const SOUNDS = [["none", "No sound"], ["0", "Left"], ["1", "Right"]];

export function Compare({ ids }) {
  const jobs = useStore((state) => ids.map((id) => state.jobs.get(id)));
  const connected = useStore((state) => state.me);
  useEffect(() => { if (connected) ids.forEach(refreshJob); }, [ids.join(), connected]);
  const ready = jobs.every((job) => job && clipOf(job));
  return html`<section class="page"><header class="page-head"><h1>Compare</h1><a class="link" href="#/gallery">Back to the gallery</a></header>
    ${ready ? html`<${Pair} jobs=${jobs} key=${ids.join()} />` : html`<div class="empty"><p>These two clips are not both here.</p></div>`}
  </section>`;
}

function Pair({ jobs }) {
  const players = [useRef(null), useRef(null)];
  const [playing, setPlaying] = useState(false);
  const [sound, setSound] = useState("0");
  const [time, setTime] = useState(0);
  const length = Math.max(...jobs.map((job) => clipOf(job).duration_s || 0)) || 1;
  const each = (work) => players.forEach((player, index) => player.current && work(player.current, index));

  useEffect(() => { each((player, index) => { player.muted = String(index) !== sound; }); });
  useEffect(() => {
    if (!playing) { each((player) => player.pause()); return undefined; }
    each((player) => player.play().catch(() => {}));
    const follow = setInterval(() => {
      const [first, second] = players.map((player) => player.current);
      if (!first || !second) return;
      setTime(first.currentTime);
      if (Math.abs(first.currentTime - second.currentTime) > DRIFT_S && first.currentTime <= second.duration) second.currentTime = first.currentTime;
    }, 100);
    return () => clearInterval(follow);
  }, [playing]);
  const seek = (to) => { setTime(to); each((player) => { player.currentTime = Math.min(to, player.duration || to); }); };

  return html`<div class="pair">${jobs.map((job, index) => html`<article key=${job.id}>
      <div class="screen"><${Player} asset=${clipOf(job)} poster=${job.result.poster} element=${players[index]} controls=${false} label=${promptOf(job)} /></div>
      <h2 class="clip-title">${promptOf(job)}</h2><p class="help">${jobFacts(job)}</p><${Actions} job=${job} /></article>`)}
    </div>
    <div class="pair-bar" role="group" aria-label="Play both">
      <button type="button" class="icon large" aria-label=${playing ? "Pause both" : "Play both"} onClick=${() => setPlaying(!playing)}><${Icon} name=${playing ? "pause" : "play"} /></button>
      <input type="range" min="0" max=${length} step="0.01" value=${time} aria-label="Time" onInput=${(event) => seek(event.target.valueAsNumber)} />
      <output>${clock(time)}</output>
      <${Chips} label="Whose sound" value=${sound} options=${SOUNDS} onChange=${setSound} />
    </div>`;
}
