// Parts of the form: the recipe, and size, length, rate and seed.

import { setField } from "../draft.js";
import { html } from "../lib.js";
import { useStore } from "../store.js";
import { Chips, Field, Icon, NumberInput, Section } from "../ui/controls.js";
import { number, plain, title } from "../words.js";

const SHAPES = ["landscape", "portrait", "square"];
const LENGTHS = [[undefined, "Model's own"], [1, "1 s"], [2, "2 s"], [4, "4 s"], [8, "8 s"], [20, "20 s"]];
const RATES = [[undefined, "Model's own"], [24, "24"], [25, "25"], [30, "30"], [48, "48"]];

/** Cards of the recipes, one of which is chosen. */
export function RecipeSection({ draft, problemsOf, isOpen, toggle }) {
  const recipes = useStore((state) => state.recipes);
  const chosen = draft.request.recipe ?? "single";
  const problems = problemsOf("recipe");
  const own = recipes.find((recipe) => recipe.name === chosen);
  return html`<${Section} id="recipe" title="Recipe" summary=${own ? `${own.name}: for ${own.best_for}` : chosen} open=${isOpen("recipe")} onToggle=${toggle("recipe")} problems=${problems.length}>
    <div class="cards" role="radiogroup" aria-label="Recipe">${recipes.map((recipe) => html`<label class="card-choice" key=${recipe.name}>
      <input type="radio" name="recipe" value=${recipe.name} checked=${recipe.name === chosen}
        onChange=${() => setField("recipe", recipe.name === "single" ? undefined : recipe.name)} />
      <span class="card-words"><strong>${recipe.name}</strong><span>for ${plain(recipe.best_for)}</span><small>${plain(recipe.summary)}</small></span>
    </label>`)}</div>
    ${problems.map((problem) => html`<p class="problem">${problem}</p>`)}
  <//>`;
}

const asText = (size) => (Array.isArray(size) ? size.join("x") : size ?? "");
const sizeWord = (size) => (SHAPES.includes(size) ? title(size) : asText(size).replace("x", "×"));

/** Return the sizes that the chosen model has words for: [[word, label]]. */
function sizesOf(models, name) {
  const { presets = {}, resolutions = {} } = (models.find((model) => model.name === name) ?? models[0])?.defaults ?? {};
  const words = [...SHAPES.filter((word) => presets[word] || !Object.keys(presets).length), ...Object.keys(resolutions)];
  return [[undefined, "Model's own"], ...words.map((word) => [word, SHAPES.includes(word) ? title(word) : word])];
}

export function ShapeSection({ draft, problemsOf, isOpen, toggle, plan }) {
  const { size, duration_s: length, num_frames: frames, fps, seed } = draft.request;
  const models = useStore((state) => state.models);
  const problems = ["size", "duration_s", "num_frames", "fps", "seed"].flatMap(problemsOf);
  const { source } = draft.request;
  const own = source ? "as the clip" : plan ? `${number(plan.duration_s)} s` : "own length";
  const lengthWord = frames ? `${frames} frames` : length ? `${number(length)} s` : own;
  const summary = [size ? sizeWord(size) : plan ? `${plan.size[0]}×${plan.size[1]}` : "own size", lengthWord, fps && `${fps} fps`, seed !== undefined ? `seed ${seed}` : "new seed"].filter(Boolean).join(" · ");
  return html`<${Section} id="shape" title="Size and length" summary=${summary} open=${isOpen("shape")} onToggle=${toggle("shape")} problems=${problems.length}>
    <${Field} label="Size" help="Width and height in pixels, such as 192x128, or one of the words. Sides become multiples of 32." problems=${problemsOf("size")} wide>
      ${(props) => html`<${Chips} label="Size presets" value=${size} options=${sizesOf(models, draft.run.model)} onChange=${(word) => setField("size", word)} />
        <input type="text" value=${asText(size)} placeholder="192x128" onChange=${(event) => setField("size", event.target.value.trim().replace("×", "x"))} ...${props} />`}
    <//>
    <${Field} label="Length" unit="seconds" problems=${problemsOf("duration_s")} wide>
      ${(props) => html`<${Chips} label="Length presets" value=${length} options=${LENGTHS} onChange=${(word) => setField("duration_s", word)} />
        <${NumberInput} value=${length} min=${0.1} max=${86400} placeholder="the model's own" onChange=${(value) => setField("duration_s", value)} ...${props} />`}
    <//>
    <div class="grid">
      <${Field} label="Frames" help="Instead of seconds: 9, 17, 25 and so on, a multiple of 8 and one more." problems=${problemsOf("num_frames")}>
        ${(props) => html`<${NumberInput} value=${frames} min=${1} step=${8} placeholder="by its length" onChange=${(value) => setField("num_frames", value)} ...${props} />`}
      <//>
      <${Field} label="Frame rate" unit="frames per second" problems=${problemsOf("fps")}>
        ${(props) => html`<${NumberInput} value=${fps} min=${1} max=${240} placeholder="the model's own" list="rates" onChange=${(value) => setField("fps", value)} ...${props} />
          <datalist id="rates">${RATES.slice(1).map(([rate]) => html`<option value=${rate}></option>`)}</datalist>`}
      <//>
      <${Field} label="Seed" help="The same seed gives the same clip. Left out, a new one each time." problems=${problemsOf("seed")}>
        ${(props) => html`<div class="row"><${NumberInput} value=${seed} min=${0} step=${1} placeholder="new each time" onChange=${(value) => setField("seed", value)} ...${props} />
          <button type="button" class="icon" aria-label="Draw a seed" title="Draw a seed" onClick=${() => setField("seed", Math.floor(Math.random() * 2 ** 31))}><${Icon} name="dice" /></button></div>`}
      <//>
    </div>
  <//>`;
}
