"Run every test: notebooks in sync and clean, every notebook executed, then pytest. Ends with one line that counts."
import os, re, subprocess, sys
from pathlib import Path

root = Path(__file__).parent.parent
env = os.environ | {'OMP_NUM_THREADS': '1', 'TQDM_DISABLE': '1', 'VIRTUAL_ENV': sys.prefix, 'PATH': f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'}
bin = Path(sys.executable).parent

def notebooks() -> int:
    "Execute every notebook and return how many passed; exit if one fails or there is none."
    done = subprocess.run([bin/'nbdev-test', '--timing', '--n-workers', '2'], cwd=root, env=env, text=True, capture_output=True)
    print(done.stdout)
    passed = len(re.findall(r'\.ipynb: \d+ secs$', done.stdout, re.M))
    if done.returncode or not passed: sys.exit(f'{done.stderr}\nnotebooks failed')
    return passed

def tests() -> int:
    "Run pytest and return how many tests passed; exit if one fails."
    process = subprocess.Popen([sys.executable, '-m', 'pytest', '-rs'], cwd=root, env=env, text=True, stdout=subprocess.PIPE)
    lines = []
    for line in process.stdout: print(line, end='', flush=True); lines.append(line)
    if process.wait(): sys.exit('pytest failed')
    return int(re.search(r'(\d+) passed', lines[-1])[1])

if __name__ == '__main__':
    n = notebooks()
    m = tests()
    print(f'{n + m} passed, 0 failed')
