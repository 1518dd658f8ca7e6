// Asks both servers every two seconds and shows who answered. Whatever comes from a server is shown as text
// (textContent), never as markup. No library, nothing from another origin, no inline style: the page's
// Content-Security-Policy is "default-src 'self'".
"use strict";

const PERIOD_MS = 2000;
// Longer than a period: a slow server is shown as slow before it is shown as missing. Rounds never overlap.
const TIMEOUT_MS = 5000;
const HISTORY = 40;
// As many as style.css has; the letter in a dot still tells servers apart when the colours start again.
const COLOURS = 8;

const byId = (id) => document.getElementById(id);
const clock = (date) => date.toLocaleTimeString([], { hour12: false });
const times = (n, one, many) => `${n} ${n === 1 ? one : many}`;

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

/** What screen readers are told. Only changes a listener wants to know, not every round; one message at a time. */
const speech = {
  pending: [],
  add(text) {
    this.pending.push(text);
  },
  flush() {
    if (this.pending.length > 0) byId("say").textContent = `${this.pending.join(". ")}.`;
    this.pending = [];
  },
};

/** Gives each server a letter and a colour, in order of appearance, the same in both rows. */
const looks = {
  seen: new Map(),
  of(server) {
    let look = this.seen.get(server);
    if (!look) {
      const n = this.seen.size;
      const letter = String.fromCharCode(65 + (n % 26));
      look = { letter: n < 26 ? letter : letter + Math.floor(n / 26), colour: `c${n % COLOURS}` };
      this.seen.set(server, look);
    }
    return look;
  },
};

/** A dot for a server, or the hollow one with a cross for an answer that failed. */
function dot(server) {
  if (server === null) return make("span", "dot failed", "×");
  const { letter, colour } = looks.of(server);
  const element = make("span", `dot ${colour}`, letter);
  element.dataset.server = server;
  return element;
}

/** One row: who answers now, the tape of the last answers, the legend with counts. */
class Lane {
  constructor(id, spoken) {
    const root = byId(id);
    for (const element of root.querySelectorAll("[data-part]")) this[element.dataset.part] = element;
    this.spoken = spoken;
    this.counts = new Map(); // server, or null for failures -> answers since the page was opened
    this.history = []; // the last HISTORY answers
    this.last = undefined; // the last answer
    this.turns = 0; // how often an answer came from another server than the one before
    this.pairs = 0; // out of how many
    this.lastServer = null;
    for (let n = 0; n < HISTORY; n += 1) this.tape.append(make("span", "dot empty"));
  }

  /** Adds an answer: { server (null: failed), problem, ms, at }. */
  add(answer) {
    const { server } = answer;
    const known = this.counts.has(server);
    this.counts.set(server, (this.counts.get(server) ?? 0) + 1);
    this.history = [...this.history, answer].slice(-HISTORY);
    if (server !== null) {
      if (this.lastServer !== null) {
        this.pairs += 1;
        if (server !== this.lastServer) this.turns += 1;
      }
      this.lastServer = server;
    }
    this.tell(answer, known);
    this.last = answer;
    this.draw(answer);
  }

  /** Speaks of a newcomer, of the start and the end of trouble, and of nothing else. */
  tell({ server, problem }, known) {
    const before = this.last;
    if (server === null) {
      if (!before || before.problem !== problem) speech.add(`${this.spoken}: ${problem}`);
    } else if (before && before.server === null) {
      speech.add(`${this.spoken} answers again: ${server}`);
    } else if (!known) {
      speech.add(`${this.spoken}: ${server} answers, shown as ${looks.of(server).letter}`);
    }
  }

  draw({ server, problem, ms, at }) {
    const fresh = dot(server);
    fresh.classList.add("fresh");
    fresh.title = `${clock(at)} · ${server ?? problem} · ${ms} ms`;
    this.tape.firstElementChild.remove();
    this.tape.lastElementChild?.classList.remove("fresh");
    this.tape.append(fresh);

    const badge = dot(server);
    badge.setAttribute("aria-hidden", "true");
    this.badge.replaceWith(badge);
    this.badge = badge;
    this.name.textContent = server ?? problem;
    this.name.classList.toggle("problem", server === null);
    this.detail.textContent = `${server === null ? "no answer" : "answered"} at ${clock(at)}, ${ms} ms`;

    this.drawLegend();
    this.drawWords();
  }

  drawLegend() {
    const servers = [...this.counts.keys()].filter((server) => server !== null);
    const entries = this.counts.has(null) ? [...servers, null] : servers;
    this.legend.replaceChildren(...entries.map((server) => {
      const item = make("li");
      item.append(dot(server), make("span", "who", server ?? "failed"));
      const count = make("span", "count", String(this.counts.get(server)));
      count.append(make("span", "unseen", " answers"));
      item.append(count);
      return item;
    }));
  }

  drawWords() {
    const servers = [...this.counts.keys()].filter((server) => server !== null);
    if (servers.length === 0) {
      this.verdict.textContent = "No server has answered yet.";
    } else if (this.turns === 0) {
      this.verdict.textContent = `Same server for all ${times(this.counts.get(servers[0]), "answer", "answers")}.`;
    } else {
      this.verdict.textContent = `The server changed after ${this.turns} of ${times(this.pairs, "answer", "answers")}.`;
    }

    const inTape = new Map();
    for (const { server } of this.history) inTape.set(server, (inTape.get(server) ?? 0) + 1);
    const parts = [...inTape].map(([server, n]) => (server === null ? `${n} failed` : `${n} from ${server}`));
    this.tape.setAttribute("aria-label", `Last ${times(this.history.length, "answer", "answers")}: ${parts.join(", ")}`);
  }
}

function drawStudents(students, server) {
  byId("students").replaceChildren(...students.map((student) => {
    const { id, first_name: first, last_name: last, birth_year: born, subject } = Object(student);
    const name = [first, last].filter((part) => part !== undefined).map(String);
    const item = make("li", "student");
    const initials = make("span", "initials", name.map((part) => [...part][0] ?? "").join(""));
    initials.setAttribute("aria-hidden", "true");
    const text = make("span", "student-text");
    text.append(make("strong", "", name.join(" ") || "(no name)"), make("span", "subject", String(subject ?? "")));
    text.append(make("span", "facts", `born ${born ?? "?"} · no. ${id ?? "?"}`));
    item.append(initials, text);
    return item;
  }));
  const from = byId("students-from");
  from.replaceChildren(`${times(students.length, "student", "students")}, made up by `, dot(server), ` ${server}`);
  from.querySelector(".dot").setAttribute("aria-hidden", "true");
}

/** What went wrong, in words for the page; errors we threw ourselves already have them. */
function wordsFor(error) {
  if (error.name === "TimeoutError" || error.name === "AbortError") return `No answer within ${TIMEOUT_MS / 1000} s`;
  if (error instanceof SyntaxError) return "The answer is not JSON";
  if (error instanceof TypeError) return "No connection"; // what fetch throws for every network error
  return error.message;
}

/** Asks once. Never throws: what fails becomes an answer without a server. */
async function ask(path, options, read) {
  const at = new Date();
  const start = performance.now();
  const answer = (fields) => ({ at, ms: Math.round(performance.now() - start), server: null, problem: "", ...fields });
  try {
    const signal = AbortSignal.timeout(TIMEOUT_MS);
    const response = await fetch(path, { cache: "no-store", signal, ...options });
    if (!response.ok) throw new Error(`${response.status} ${response.statusText}`.trim());
    const server = response.headers.get("X-Server");
    if (!server) throw new Error("An answer without X-Server");
    return answer({ value: await read(response), server });
  } catch (error) {
    return answer({ problem: wordsFor(error) });
  }
}

async function readStudents(response) {
  const students = await response.json();
  if (!Array.isArray(students)) throw new Error("The answer is not a list");
  return students;
}

const lanes = { static: new Lane("static", "Static server"), dynamic: new Lane("dynamic", "Dynamic server") };

async function round() {
  const [whoami, students] = await Promise.all([
    ask("/whoami", { method: "HEAD" }, () => null),
    ask("/api/student", {}, readStudents),
  ]);
  lanes.static.add(whoami); // always first, so that the first static server is A
  lanes.dynamic.add(students);
  if (students.server !== null) drawStudents(students.value, students.server);
  const stale = students.server === null;
  document.body.classList.toggle("stale", stale);
  byId("stale").hidden = !stale;
  speech.flush();
}

/** The beat: one round each period, none while paused. */
const beat = {
  timer: undefined,
  paused: false,
  running: false,
  async tick() {
    clearTimeout(this.timer);
    if (this.running || this.paused) return;
    this.running = true;
    const start = performance.now();
    try {
      await round();
    } finally {
      this.running = false;
      if (!this.paused) {
        const rest = Math.max(0, PERIOD_MS - (performance.now() - start));
        this.timer = setTimeout(() => this.tick(), rest);
      }
    }
  },
  toggle() {
    this.paused = !this.paused;
    byId("pause").textContent = this.paused ? "Resume" : "Pause";
    byId("state").textContent = this.paused ? "Paused" : "Live";
    byId("state").dataset.state = this.paused ? "paused" : "live";
    speech.add(this.paused ? "Paused" : "Asking again");
    speech.flush();
    this.tick();
  },
};

byId("pause").addEventListener("click", () => beat.toggle());
beat.tick();
