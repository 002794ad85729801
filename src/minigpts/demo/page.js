// The page's own code: loads the models into the browser and streams their replies. Every text is set as text, never as HTML.
import { LoggerWithoutDebug, Wllama } from "/wllama.js";

const CONTEXT = 2048; // tokens of a conversation; the engine takes fewer where the model has fewer
const ENGINE = { default: "/wllama.wasm" };
const ROLES = { child: "Child", parent: "Parent" };
const EMPTY = "(an empty reply: the model ended it at once)";
const $ = (id) => document.getElementById(id);

function element(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

/** The bytes of a path as a Blob, telling `progress` (0 to 1) as they come. */
async function download(path, bytes, progress) {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`the server answers ${response.status}; start it again`);
  let received = 0;
  const counting = new TransformStream({
    transform(part, passed) {
      received += part.length;
      progress(received / bytes);
      passed.enqueue(part);
    },
  });
  return new Response(response.body.pipeThrough(counting)).blob();
}

function requireBrowser() {
  try {
    new WebAssembly.Memory({ address: "i64", initial: 1n });
  } catch {
    throw new Error("this browser has no 64-bit WebAssembly memory; a current Chrome, Edge or Firefox has");
  }
}

/** A model, and its side of the conversation. */
class Speaker {
  constructor(role, facts) {
    this.role = role;
    this.facts = facts;
    this.turns = [];
    this.engine = null;
  }

  async load(progress) {
    requireBrowser();
    const file = await download(`/${this.role}.gguf`, this.facts.bytes, progress);
    const engine = new Wllama(ENGINE, { logger: LoggerWithoutDebug, suppressNativeLog: true });
    engine.setCompat(null); // else a browser without what the engine needs would be sent to another host
    await engine.loadModel([file], {
      n_ctx: CONTEXT,
      n_parallel: 1,
      n_gpu_layers: 0, // the CPU gives the same reply everywhere
      cache_type_k: "f32",
      cache_type_v: "f32",
      flash_attn: false,
      jinja: true,
      reasoning_format: "none",
      skip_chat_parsing: true, // the reply as the model writes it
    });
    if (engine.getChatTemplate()) {
      // What the template puts in front of every first message is read now, so that the first reply needn't wait for it.
      await engine.createChatCompletion({ messages: [{ role: "user", content: "?" }], max_tokens: 1, temperature: 0 });
    }
    this.engine = engine;
  }

  /** Streams the reply to `message` through `show(text)`. The oldest turns are dropped where the context is full. */
  async answer(message, settings, signal, show) {
    const chats = message.asks && Boolean(this.engine.getChatTemplate());
    const turns = chats ? [...this.turns, { role: "user", content: message.text }] : [];
    for (;;) {
      try {
        const reply = await this.#complete(chats ? { messages: turns } : { prompt: message.text }, settings, signal, show);
        if (chats) this.turns = [...turns, { role: "assistant", content: reply.text }];
        return reply;
      } catch (error) {
        if (turns.length < 3 || !/context|exceed/i.test(error.message)) throw error;
        turns.splice(0, 2);
      }
    }
  }

  async #complete(request, settings, signal, show) {
    const reply = { text: "", tokens: 0, speed: null, firstAfter: null, stopped: false };
    const start = performance.now();
    let first = start;
    const options = {
      ...request,
      stream: true,
      max_tokens: settings.max_new_tokens,
      temperature: settings.temperature,
      abortSignal: signal,
      onData: (chunk) => {
        const [choice] = chunk.choices ?? [];
        const text = choice?.delta?.content ?? choice?.text ?? "";
        if (text) {
          if (reply.firstAfter === null) {
            first = performance.now();
            reply.firstAfter = (first - start) / 1000;
          }
          reply.tokens += 1;
          reply.text += text;
          const seconds = (performance.now() - first) / 1000;
          reply.speed = reply.tokens > 1 ? (reply.tokens - 1) / seconds : null;
          show(reply);
        }
        if (chunk.timings) {
          reply.tokens = chunk.timings.predicted_n;
          if (chunk.timings.predicted_ms > 0) reply.speed = chunk.timings.predicted_per_second;
        }
      },
    };
    try {
      await (request.messages ? this.engine.createChatCompletion(options) : this.engine.createCompletion(options));
    } catch (error) {
      if (error.name !== "AbortError") throw error;
      reply.stopped = true;
    }
    return reply;
  }
}

function figures(reply) {
  const parts = [`${reply.tokens} tokens`];
  if (reply.speed) parts.push(`${reply.speed.toFixed(1)} tokens/s`);
  if (reply.firstAfter !== null) parts.push(`first after ${reply.firstAfter.toFixed(2)} s`);
  if (reply.stopped) parts.push("stopped");
  return parts.join(" · ");
}

/** The page: which models have loaded, and whether one of them is writing. */
class Page {
  constructor(settings) {
    this.settings = settings;
    this.speakers = [];
    this.stopping = null; // the AbortController of the reply that is being written
    for (const prompt of settings.prompts) this.#offer(prompt);
    $("form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#sendTyped();
    });
    $("message").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#sendTyped();
    });
    $("stop").addEventListener("click", () => this.stopping?.abort());
    $("new").addEventListener("click", () => {
      for (const speaker of this.speakers) speaker.turns = [];
      $("conversation").replaceChildren();
      this.#refresh();
    });
  }

  #offer(prompt) {
    const button = element("button", "", prompt.text + (prompt.asks ? "" : " …"));
    button.type = "button";
    button.disabled = true;
    button.addEventListener("click", () => this.send(prompt));
    const item = element("li", "");
    item.append(button);
    $("prompts").append(item);
  }

  /** Loads a model, and shows how far that is in the list of models. */
  async load(speaker, item) {
    const { role, facts } = speaker;
    const bar = element("progress", "");
    bar.setAttribute("aria-label", `Loading the ${role}`);
    const state = element("p", "soft", "loading …");
    item.replaceChildren(this.#named(speaker), state, bar);
    const start = performance.now();
    try {
      await speaker.load((share) => {
        if (share < 1) bar.value = share;
        else bar.removeAttribute("value");
      });
    } catch (error) {
      bar.remove();
      state.className = "bad";
      state.textContent = `It could not be loaded: ${error.message}`;
      return;
    }
    bar.remove();
    state.textContent = `${megabytes(facts.bytes)} · loaded in ${((performance.now() - start) / 1000).toFixed(1)} s`;
    item.dataset.state = "ready";
    this.speakers.push(speaker);
    this.#refresh();
  }

  /** Offers a model that is loaded on request. */
  offerToLoad(speaker, item) {
    const button = element("button", "", `Let the ${speaker.role} answer too (${megabytes(speaker.facts.bytes)})`);
    button.type = "button";
    button.addEventListener("click", () => this.load(speaker, item));
    item.replaceChildren(this.#named(speaker), button);
  }

  #named(speaker) {
    return element("p", "who", `${ROLES[speaker.role]}: ${speaker.facts.name}`);
  }

  #sendTyped() {
    const text = $("message").value.trim();
    if (!text || this.stopping || !this.speakers.length) return;
    $("message").value = "";
    this.send({ text, asks: true });
  }

  /** Lets every loaded model answer, one behind the other: two at once would halve each other's speed. */
  async send(message) {
    if (this.stopping || !this.speakers.length) return;
    this.stopping = new AbortController();
    const speakers = [...this.speakers];
    const turn = element("div", "turn");
    turn.append(this.#card("you", "You", message.text + (message.asks ? "" : " …")));
    $("conversation").append(turn);
    this.#refresh();
    for (const speaker of speakers) {
      if (this.stopping.signal.aborted) break;
      await this.#answer(speaker, message, turn);
    }
    this.stopping = null;
    this.#refresh();
  }

  async #answer(speaker, message, turn) {
    const card = this.#card(speaker.role, ROLES[speaker.role], "…");
    const [text, shown] = [card.querySelector(".text"), element("p", "figures", "")];
    card.append(shown);
    turn.append(card);
    card.scrollIntoView({ block: "nearest" });
    const show = (reply) => {
      text.textContent = reply.text;
      shown.textContent = figures(reply);
      card.scrollIntoView({ block: "nearest" });
    };
    try {
      const reply = await speaker.answer(message, this.settings, this.stopping.signal, show);
      show(reply);
      if (!reply.text.trim()) text.textContent = reply.stopped ? "(stopped)" : EMPTY;
      card.dataset.state = reply.stopped ? "stopped" : "done";
    } catch (error) {
      text.className = "text bad";
      text.textContent = `It could not answer: ${error.message}`;
      card.dataset.state = "failed";
    }
  }

  #card(className, who, text) {
    const card = element("div", className);
    card.append(element("p", "who", who), element("p", "text", text));
    return card;
  }

  #refresh() {
    const ready = this.speakers.length > 0;
    const writing = this.stopping !== null;
    for (const button of [...$("prompts").querySelectorAll("button"), $("send")]) button.disabled = !ready || writing;
    $("new").disabled = writing || !$("conversation").children.length;
    $("stop").disabled = !writing;
    $("conversation").setAttribute("aria-busy", String(writing));
    $("status").textContent = writing ? "Writing …" : "";
  }
}

const settings = await (await fetch("/settings.json")).json();
const page = new Page(settings);
for (const [role, facts] of Object.entries(settings.models)) {
  const item = element("li", role);
  item.dataset.state = "waiting";
  $("models").append(item);
  if (role === "child") {
    document.title = `Talk to ${facts.name}`;
    page.load(new Speaker(role, facts), item);
  } else page.offerToLoad(new Speaker(role, facts), item);
}
