// What the draft will make and what it takes, asked of the server while it is written.

import { post } from "../api.js";
import { bodyOf } from "../draft.js";
import { html, useEffect, useState } from "../lib.js";
import { useStore } from "../store.js";
import { gigabytes, number, seconds } from "../words.js";

const PAUSE_MS = 350; // after the last change

/** Return {plan, problems, waiting} of the draft. */
export function usePlan(draft) {
  const [told, setTold] = useState({ plan: null, problems: [], waiting: true });
  const away = useStore((state) => state.away);
  const body = JSON.stringify(bodyOf(draft));
  useEffect(() => {
    if (away || !draft.request.prompt?.trim()) {
      setTold((before) => ({ ...before, problems: [], waiting: false }));
      return undefined;
    }
    const control = new AbortController();
    setTold((before) => ({ ...before, waiting: true }));
    const timer = setTimeout(async () => {
      try {
        const plan = await post("/plan", JSON.parse(body), { signal: control.signal });
        setTold({ plan, problems: [], waiting: false });
      } catch (error) {
        if (error.name === "AbortError") return;
        const problems = error.status && error.status !== 401 ? error.problems : [];
        setTold((before) => ({ plan: problems.length ? null : before.plan, problems, waiting: false }));
      }
    }, PAUSE_MS);
    return () => { clearTimeout(timer); control.abort(); };
  }, [body, away]);
  return told;
}

export function planWords(plan) {
  return `${plan.size[0]}×${plan.size[1]} · ${number(plan.duration_s)} s · ${plan.num_frames} frames at ${number(plan.fps)} fps`;
}

/** The bar under the form: what it takes, and the buttons. */
export function Price({ plan, problems, waiting, busy, onMake, empty }) {
  const blocked = busy || empty || problems.length > 0;
  return html`<div class="price">
    <div class="price-words" role="status" aria-live="polite">
      ${problems.length > 0 ? problems.map((problem) => html`<p class="problem">${problem.message}</p>`)
        : empty ? html`<p class="help">Write what the clip shows to begin.</p>`
        : plan ? html`<div class=${waiting ? "waiting" : ""}>
            <p class="price-main">${plan.seconds === null || plan.seconds === undefined ? "Time not known yet" : html`about <strong>${seconds(plan.seconds)}</strong>`}
              ${plan.memory_gb ? html` · <strong>${gigabytes(plan.memory_gb)}</strong> of memory` : ""}</p>
            <p class="help">${planWords(plan)}</p></div>`
        : html`<p class="help">${waiting ? "Working out what it takes" : ""}</p>`}
    </div>
    <div class="price-buttons">
      <button type="button" class="button" disabled=${blocked} onClick=${() => onMake(4)} title="Four clips with four seeds">4 seeds</button>
      <button type="submit" class="button primary" disabled=${blocked}>${busy ? "Sending" : "Make"}<kbd>Ctrl ↵</kbd></button>
    </div>
  </div>`;
}
